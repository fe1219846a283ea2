"""The flags that the scripts share."""

import os
import shlex
import signal
import subprocess
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.demos.boring_classes import BoringModel
from torch._utils import ExceptionWrapper

from tests.references.launcher_variables import torchrun
from tests.references.plain_training import plain_trainer
from tests.references.script import in_processes
from tests.references.waiting import HANG_S
from utils.cli import (
    base_parser,
    check_base_flags,
    print_next,
    run,
    share_cores,
    trainer_kwargs,
)
from utils.errors import UserError
from utils.launchers import GRACE_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("gpus", "expected"), [(0, "cpu"), (1, "gpu")])
def test_flags_become_arguments_of_lightning(gpus: int, expected: str) -> None:
    kwargs = trainer_kwargs(Namespace(gpus=gpus, precision="16", max_epochs=3))
    assert (kwargs["accelerator"], kwargs["devices"], kwargs["max_epochs"]) == (expected, 1, 3)
    assert kwargs["precision"] == "16-mixed"


@pytest.mark.parametrize(
    ("processes", "workers", "expected"),
    [(1, 0, 4), (1, 1, 3), (1, 3, 1), (1, 8, 1), (2, 0, 2), (2, 1, 1), (4, 0, 1), (8, 0, 1)],
)
def test_processes_and_their_loaders_keep_a_core_each(
    monkeypatch: pytest.MonkeyPatch, processes: int, workers: int, expected: int
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("utils.cli.available_cores", lambda processes: max(1, 4 // processes))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    share_cores(0, processes, workers)
    assert os.environ["OMP_NUM_THREADS"] == str(expected if processes > 1 else 4)
    assert chosen == [expected]
    share_cores(1, processes, workers)
    assert chosen == [expected]  # a GPU needs no threads


@pytest.mark.parametrize(
    ("name", "flags", "code"),
    [("SIGTERM", "", 143), ("SIGINT", "", 130), ("SIGINT", "--resume auto", os.EX_TEMPFAIL)],
)
def test_an_interruption_while_a_process_is_started_is_not_lost(
    name: str, flags: str, code: int
) -> None:
    script = f"""
import os, signal, time
from utils.cli import run
def main():
    os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.{name}))
    if os.fork() == 0:
        os._exit(0)
    while True:
        time.sleep(0.05)  # a signal just before a sleep is seen after it
signal.signal(signal.SIGINT, signal.default_int_handler)
run(main)
"""
    assert in_processes("-c", script, *flags.split()).returncode == code


@pytest.mark.parametrize(("repeated", "code"), [(False, os.EX_TEMPFAIL), (True, -signal.SIGTERM)])
def test_a_signal_ends_a_process_whose_library_waits_and_another_one_ends_it_at_once(
    repeated: bool, code: int
) -> None:
    """A lock of the C library, unlike a call of the system, is not interrupted by a signal."""
    script = f"""
import ctypes, os, threading, time
from utils import cli, signals
def main():
    threading.Timer(0.5, os.kill, (os.getpid(), {signal.SIGTERM})).start()
    if {repeated}:
        threading.Timer(1.5, os.kill, (os.getpid(), {signal.SIGTERM})).start()
        try:
            time.sleep({HANG_S})
        finally:
            time.sleep({HANG_S})
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(lock)
signals._DEADLINE_S = 1e4 if {repeated} else 0.1
signals._REPEAT_S = 0.5
cli.run(main, resumes=True)
"""
    assert in_processes("-c", script).returncode == code


@pytest.mark.usefixtures("_restored_signals")
def test_an_error_of_a_loader_process_is_its_sentence_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Torch reports the error of a loader process with its traceback as its text."""

    def main() -> None:
        try:
            raise UserError("a.tif is empty: replace it") from ValueError("its cause")
        except UserError:
            wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
        wrapper.reraise()

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a.tif is empty: replace it\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": Path("a\udcff")}, r"--data_dir 'a\\udcff' has unprintable characters"),
        (
            {"log_dir": Path("/dev/null/logs")},
            "/dev/null/logs cannot be written: Not a directory: choose another path",
        ),
        (
            {"log_dir": Path("n" * 256)},
            "--log_dir .*n cannot be written: File name too long: shorten",
        ),
    ],
)
def test_paths_that_cannot_work_are_refused_before_the_work(
    changes: dict[str, Path], message: str, tmp_path: Path
) -> None:
    parser = base_parser(None, max_epochs=1, batch_size=1, learning_rate=1.0)
    args = parser.parse_args(["--data_dir", str(tmp_path), "--gpus", "0"])
    vars(args).update(changes)
    with pytest.raises(UserError, match=message):
        check_base_flags(args)


class Interrupt(Callback):
    def on_train_batch_start(self, *arguments: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("_restored_signals")
def test_ctrl_c_while_lightning_trains_has_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def main() -> None:
        plain_trainer(tmp_path, callbacks=[Interrupt()]).fit(BoringModel())

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


@pytest.mark.usefixtures("_restored_signals")
@pytest.mark.parametrize(("rank", "expected"), [(0, []), (1, [GRACE_S])])
def test_other_processes_let_the_first_one_report(
    monkeypatch: pytest.MonkeyPatch, rank: int, expected: list[float]
) -> None:
    def main() -> None:
        raise UserError("wrong")

    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for name, value in torchrun(2, 2, rank).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        run(main)
    assert waited == expected


@pytest.mark.usefixtures("_restored_signals")
@pytest.mark.parametrize(
    ("result", "code", "sentence"),
    [(None, 74, "error: the output could not"), ({}, 0, "the results are written, but the output")],
)
def test_a_full_output_loses_nothing_that_is_in_files(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    result: object,
    code: int,
    sentence: str,
) -> None:
    def main() -> object:
        print("text", flush=True)
        return result

    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as left:
            run(main)
    assert left.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(sentence)
    assert "free some space" in line


def test_a_script_needs_no_standard_output() -> None:
    script = "from utils.cli import run; run(lambda: print('text'))"
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)} >&-"
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, timeout=HANG_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.usefixtures("_restored_signals")
def test_warnings_and_commands_from_names_of_files_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run(lambda: print_next("main_pretrain.py", "--data_dir", "\x1b[2J"))
    assert capsys.readouterr().out == "next: python main_pretrain.py --data_dir '\\x1b[2J'\n"
    text = f"pictures differ in size: \x1b[2J {'x' * 10**6}"
    line = warnings.formatwarning(text, UserWarning, "pictures.py", 1)
    assert line.startswith(r"warning: pictures differ in size: \x1b[2J xxx")
    assert len(line) < 2100
