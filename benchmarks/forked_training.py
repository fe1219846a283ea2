"""Train a tiny network in a forked child, whose parent has imported everything."""

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, NoReturn
from unittest.mock import patch

import torch
from pytorch_lightning.strategies.launchers import subprocess_script

import main_pretrain
from datasets.mini_earth import write_seco
from datasets.seco_packed import main as pack
from models import pretrain_run
from utils.cli import run

STEPS = 8  # of two epochs; half as many with two processes
_FLAGS = (
    *("--data_mode", "seco", "--base_encoder", "resnet18_slim", "--crop_size", "32"),
    *("--batch_size", "2", "--num_negatives", "16", "--emb_dim", "8", "--max_epochs", "2"),
    *("--gpus", "0", "--precision", "32-true", "--log_every_n_steps", "1", "--no_report"),
)
_HANG_S = 300.0  # of a run of two seconds; the machine may be busy
_END_S = 60.0  # in which all processes must have ended after the first one


class Ended(NamedTuple):
    """How a run ended."""

    code: int  # below 0: the signal
    text: str  # what it printed
    log_dir: Path  # folder of its runs

    def sentences(self) -> list[str]:
        """Return the lines with an error, and those of a traceback."""
        marks = ("error: ", "Traceback", "Error: ")
        return [line for line in self.text.splitlines() if any(mark in line for mark in marks)]

    def expect(self, code: int, words: str) -> str | None:
        """Return what is wrong, unless there is one sentence with these words and the code.

        Args:
            code: Expected exit code, below 0 a signal.
            words: Part of the sentence.
        """
        found = self.sentences()
        is_right = len(found) == 1 and words in found[0] and "Traceback" not in self.text
        if self.code == code and is_right:
            return None
        return f"not {code}: {self.described()}"

    def described(self) -> str:
        """Return exit code and end of the output."""
        return f"exit code {self.code}: {self.text[-600:]}"


def train(
    folder: Path,
    prepare: Callable[[], object],
    *,
    workers: int = 0,
    processes: int = 1,
    data: Path | None = None,
) -> Ended:
    """Train in a forked child, and wait until all of its processes have ended.

    Args:
        folder: Folder of the trials.
        prepare: Called in the child before the training.
        workers: Loader processes.
        processes: Training processes.
        data: Folder of the data; None for small places in files.
    """
    data = data or data_of(folder)
    log_dir, output = folder / "logs", folder / "output.txt"
    shutil.rmtree(log_dir, ignore_errors=True)
    flags = ["--data_dir", str(data), "--log_dir", str(log_dir), *_FLAGS]
    flags += ["--num_workers", str(workers), "--num_processes", str(processes)]
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        _redirect(output)
        prepare()
        _train(flags)
    code = _wait(child)
    deadline = time.monotonic() + _END_S
    while (left := _session(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    text = output.read_text(errors="replace")
    return Ended(code, text + f"\nError: {len(left)} processes are left" * bool(left), log_dir)


def _train(flags: list[str]) -> NoReturn:
    """Run main_pretrain.py and end; a second process is a fork too."""
    code: object = 1
    try:
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        forks = SimpleNamespace(Popen=lambda command, env, cwd: _Fork(flags, env))
        with (
            patch.object(subprocess_script, "subprocess", forks),
            patch.multiple(pretrain_run, plot_views=_nothing, plot_training=_nothing),
        ):
            run(lambda: main_pretrain.main(flags))
        code = 0
    except SystemExit as leaving:
        code = 0 if leaving.code is None else leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


class _Fork:
    """The part of ``subprocess.Popen`` that Lightning and ``EndTogether`` use."""

    def __init__(self, flags: list[str], env: dict[str, str]) -> None:
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.update(env)
            _train(flags)

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.02)
        return self.returncode or 0

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _nothing(*_: object) -> None:
    """Stand in for pictures, which take as long as the training."""


@cache
def data_of(folder: Path) -> Path:
    """Write small places and a store of them, once for all trials of a folder."""
    data, store = folder / "seco", folder / "store"
    if not (store / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(data, ignore_errors=True)
        write_seco(data, num_places=8, num_dates=4, size=48, num_workers=1)
        pack(["--data_dir", str(data), "--save_path", str(store), "--num_workers", "0"])
    return data


def _redirect(output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)


def _wait(child: int) -> int:
    """Return the exit code of a child, or minus the signal that ended it."""
    deadline = time.monotonic() + _HANG_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for each in _session(child):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.02)


def _session(number: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(path.parent.name))
    return found
