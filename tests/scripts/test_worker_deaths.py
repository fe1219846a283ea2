"""Loader processes that are killed, or run out of shared memory: one sentence with the remedy."""

import os
import re
import resource
import signal
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datasets.seco.patches import SecoPatches
from tests.references.script import exit_code
from utils.cli import run
from utils.errors import UserError
from utils.pools import process_pool


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)


def fill_shared_memory() -> None:
    """A limit on the size of files stands in for a small /dev/shm; the kernel enforces both."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


class Deadly(Dataset[Tensor]):
    def __init__(self, end: Any, *arguments: Any) -> None:
        self.end, self.arguments = end, arguments

    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> Tensor:
        self.end(*self.arguments)
        return torch.zeros(100, 100)


@pytest.mark.usefixtures("_restored_signals")
@pytest.mark.parametrize(
    ("end", "cause", "remedies"),
    [
        ((end_by, signal.SIGKILL), "a loader process was killed", ["--num_workers"]),
        # torch names the signal only if it sees the end of the process before its broken queue.
        ((end_by, signal.SIGBUS), "shared memory|a loader process was killed", ["--num_workers"]),
        ((fill_shared_memory,), "shared memory", ["--num_workers 0", "--shm-size"]),
        ((os._exit, 9), "a loader process was killed", ["--num_workers"]),
    ],
    ids=["killed", "bus error", "full", "ended"],
)
def test_a_lost_loader_process_is_one_sentence(
    end: tuple[Any, ...], cause: str, remedies: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(lambda: list(DataLoader(Deadly(*end), 2, num_workers=1)))
    assert left.value.code == 2
    *_, line = capfd.readouterr().err.splitlines()
    assert line.lstrip("\0").startswith("error: ")  # torch writes the zero
    assert re.search(cause, line)
    for words in remedies:
        assert words in line


@pytest.mark.usefixtures("_restored_signals")
def test_another_error_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_a_script_with_a_killed_loader_process_ends_with_the_sentence(
    seco_root: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = SecoPatches.read

    def die_in_loader(source: SecoPatches, patch: int) -> Any:
        return read(source, patch) if get_worker_info() is None else end_by(signal.SIGKILL)

    monkeypatch.setattr(SecoPatches, "read", die_in_loader)
    flags = ["--data_dir", str(seco_root), "--log_dir", str(tmp_path), "--gpus", "0"]
    flags += ["--batch_size", "3", "--num_negatives", "8", "--crop_size", "32"]
    code = exit_code(monkeypatch, "main_pretrain.py", *flags, "--num_workers", "1")
    error = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: a loader process was killed")
    assert not list(tmp_path.rglob("*ckpt*"))


def test_a_killed_process_of_a_pool_is_one_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"was killed.*fewer --num_workers"),
        process_pool(1) as pool,
    ):
        pool.submit(end_by, signal.SIGKILL).result()
