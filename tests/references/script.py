"""A script run in the tests' own process, as starting another takes seconds, or in another."""

import os
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.references.waiting import HANG_S

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


def as_flags(**values: object) -> list[str]:
    """Write values as a command line."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
