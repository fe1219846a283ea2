"""A script run in the tests' own process, in a fork of it, or in a new one, which takes seconds."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.references.launcher_variables import torchrun
from tests.references.waiting import HANG_S
from utils.cli import run

ROOT = Path(__file__).resolve().parents[2]


def exit_code(monkeypatch: pytest.MonkeyPatch, script: str, *flags: str) -> int:
    """Run a script of the root to its error, as the command line does."""
    monkeypatch.setattr(sys, "argv", [script, *flags])
    # What scripts set for their whole process stays out of the other tests.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert isinstance(left.value.code, int)
    return left.value.code


def in_processes(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the root, or a module by -m, in processes of its own."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )


def forked(
    main: Callable[[Sequence[str]], object],
    argv: Sequence[str],
    variables: Mapping[str, str] = {},
    output: Path = Path(os.devnull),
) -> BaseProcess:
    """Start a script as a process that leads its own group and appends what it prints to a file."""
    method = "spawn" if torch.cuda.is_available() else "fork"  # CUDA does not survive a fork
    context: Any = multiprocessing.get_context(method)
    process: BaseProcess = context.Process(target=_lead, args=(main, argv, variables, output))
    process.start()
    return process


def in_two_forks(
    main: Callable[[Sequence[str]], object], argv: Sequence[str], output: Path
) -> list[int]:
    """Run a script in two forks, as workers of torchrun; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = {"MASTER_PORT": str(free.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}
    forks = [forked(main, argv, torchrun(2, 2, rank) | port, output) for rank in range(2)]
    for fork in forks:
        fork.join(HANG_S)
    return [fork.exitcode or 0 for fork in forks]


def _lead(
    main: Callable[[Sequence[str]], object],
    argv: Sequence[str],
    variables: Mapping[str, str],
    output: Path,
) -> None:
    os.setsid()
    os.environ.update(variables)
    sys.argv[1:] = argv
    sys.stdout = sys.stderr = output.open("a", buffering=1)
    torch.set_num_threads(1)
    run(lambda: main(argv))


def as_flags(**values: object) -> list[str]:
    """Write values as a command line."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
