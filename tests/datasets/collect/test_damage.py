"""What a full disk, another process and a stranger's files do to journals and to their check."""

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.collect import journal as collect_journal
from datasets.collect.journal import Journal, Record, read_journals
from datasets.collect.verify import verify
from tests.references.fetch_runs import fetch, plan_in
from tests.references.waiting import HANG_S
from tests.servers.fake_source import FakeSource
from utils.errors import UserError


def test_half_a_line_on_a_full_disk_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 5)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path, "hash").opened() as journal:
        journal.add(Record(1, "cloudy"))
        journal.flush()
        journal.add(Record(2, "cloudy"))
        with monkeypatch.context() as full:
            full.setattr(collect_journal.os, "fsync", half)
            with pytest.raises(UserError, match="No space left"):
                journal.flush()

    assert set(read_journals(tmp_path, "hash")) == {1, 2}  # there was room at the end


def start(folder: Path, shard: tuple[int, int], together: Any, results: Any) -> None:
    """Open a journal; nobody closes one before both have tried."""
    refuse = collect_journal._refuse_other_counts

    def refuse_together(lock: Path) -> None:
        together.wait(HANG_S)
        refuse(lock)
        together.wait(HANG_S)

    collect_journal._refuse_other_counts = refuse_together
    try:
        with Journal(folder, "hash", shard).opened():
            results.put("opened")
    except UserError:
        together.abort()  # the other one need not wait
        results.put("refused")
    except Exception as error:
        results.put(repr(error))


def test_two_that_start_together_with_other_shard_counts_do_not_both_go_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=start, args=(tmp_path, shard, together, results))
        for shard in ((0, 1), (0, 2))
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=HANG_S) for _ in processes]
    for process in processes:
        process.join()

    assert "refused" in found


def scene_is_a_file(scene: Path) -> None:
    shutil.rmtree(scene)
    scene.write_text("no folder")


def band_is_a_folder(scene: Path) -> None:
    (scene / "B2.tif").unlink()
    (scene / "B2.tif").mkdir()


def band_is_a_pipe(scene: Path) -> None:
    (scene / "B2.tif").unlink()
    os.mkfifo(scene / "B2.tif")


def band_is_a_device(scene: Path) -> None:
    (scene / "B2.tif").unlink()
    (scene / "B2.tif").symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "spoil", [scene_is_a_file, band_is_a_folder, band_is_a_pipe, band_is_a_device]
)
def test_what_is_no_plain_file_is_damage(
    spoil: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_in(tmp_path / "c")
    fetch(tmp_path / "c", plan, FakeSource(plan.settings), indices=[3])
    number = next(iter(read_journals(tmp_path / "c", plan.hash)))
    spoil(next((tmp_path / "c" / f"{number:06d}").iterdir()))

    assert not verify(tmp_path / "c", plan, 1)
    assert "1 damaged" in capsys.readouterr().out
    assert number not in read_journals(tmp_path / "c", plan.hash)


def test_a_disk_that_cannot_be_read_is_told_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path / "c")
    fetch(tmp_path / "c", plan, FakeSource(plan.settings), indices=[3])
    before = read_journals(tmp_path / "c", plan.hash)
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.suffix == ".tif":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", read_bytes)
        with pytest.raises(UserError, match=r"cannot read .*Input/output error"):
            verify(tmp_path / "c", plan, 1)

    assert read_journals(tmp_path / "c", plan.hash) == before
