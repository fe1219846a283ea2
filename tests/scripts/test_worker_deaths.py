"""Loader processes that are killed, or run out of shared memory: one sentence with the remedy.

The loaders run in forks: torch sees at once that a process has ended, but only in a process whose
main thread has no others next to it that may receive the signal.
"""

import os
import re
import resource
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datasets.seco.patches import SecoPatches
from main_pretrain import main
from tests.references.pretraining import SMALL
from tests.references.script import as_flags, forked
from tests.references.waiting import HANG_S
from utils.cli import run
from utils.data import InfiniteDataLoader
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


def load(end: tuple[Any, ...], argv: Sequence[str]) -> None:
    list(DataLoader(Deadly(*end), 2, num_workers=1))


def printed_by(main: Any, argv: Sequence[str], output: Path) -> list[str]:
    """Return the lines of a script that ends with exit code 2."""
    fork = forked(main, argv, output=output)
    fork.join(HANG_S)
    assert fork.exitcode == 2
    return output.read_text().splitlines()


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
    end: tuple[Any, ...], cause: str, remedies: list[str], tmp_path: Path
) -> None:
    *_, line = printed_by(partial(load, end), [], tmp_path / "output")
    assert line.startswith("error: ")
    assert re.search(cause, line)
    for words in remedies:
        assert words in line


def hold(argv: Sequence[str], held: list[Any] = []) -> None:  # noqa: B006
    held.append(iter(InfiniteDataLoader(Deadly(int), 2, num_workers=1)))
    next(held[0])
    raise UserError("bad data")


def test_an_error_that_keeps_a_loader_alive_ends_the_script(tmp_path: Path) -> None:
    """Its processes ignore the signals of a launcher, and SIGTERM of an exiting parent as well."""
    assert printed_by(hold, [], tmp_path / "output") == ["error: bad data"]


@pytest.mark.usefixtures("_restored_signals")
def test_another_error_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_a_script_with_a_killed_loader_process_ends_with_the_sentence(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SecoPatches.read

    def die_in_loader(source: SecoPatches, *patch: Any) -> Any:
        return read(source, *patch) if get_worker_info() is None else end_by(signal.SIGKILL)

    monkeypatch.setattr(SecoPatches, "read", die_in_loader)
    where = as_flags(data_dir=seco_root, log_dir=tmp_path / "logs")
    lines = printed_by(main, [*SMALL, *where, "--num_workers", "1"], tmp_path / "output")
    assert "Traceback" not in "".join(lines)
    assert lines[-1].startswith("error: a loader process was killed")
    assert not list(tmp_path.rglob("*ckpt*"))


def test_a_killed_process_of_a_pool_is_one_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"was killed.*fewer --num_workers"),
        process_pool(1) as pool,
    ):
        pool.submit(end_by, signal.SIGKILL).result()
