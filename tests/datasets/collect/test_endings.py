"""How a fetch ends before it is complete: signals, errors, refusals."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import datasets.collect.fetch as engine
from datasets.collect import writer as collect_writer
from datasets.collect.journal import Journal, read_journals
from datasets.collect.plan import Plan
from datasets.collect.report import Ending
from datasets.collect.scenes import ComeBack, Refused
from datasets.miniature.services.catalogue import Catalogue
from tests.references.fetch_runs import SETTINGS, fetch, plan_in
from tests.references.waiting import HANG_S, wait_until
from tests.servers.fake_source import FakeSource
from utils.errors import UserError

SMALL = replace(SETTINGS, bands=("B4",))
COMPLETE = Ending("complete")


def source_of(plan: Plan, fault: Callable[[str], None] = lambda kind: None) -> FakeSource:
    return FakeSource(plan.settings, Catalogue(cloudiness=0.0), fault)


def at_read(number: int, action: Callable[[], None]) -> Callable[[str], None]:
    """Do something once, in the thread of the n-th read."""
    left, lock = [number], threading.Lock()

    def fault(kind: str) -> None:
        with lock:
            left[0] -= kind == "read"
            comes = kind == "read" and left[0] == 0
        if comes:
            action()

    return fault


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def comes_back() -> None:
    raise ComeBack("used up")


def folders(save_path: Path) -> set[str]:
    return {path.name for path in save_path.iterdir() if path.is_dir()}


def done(save_path: Path, plan: Plan) -> set[str]:
    records = read_journals(save_path, plan.hash).values()
    return {f"{record.place:06d}" for record in records if record.outcome == "done"}


def test_a_signal_lets_places_in_progress_be_finished(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, SMALL)
    source = source_of(plan, at_read(9, terminate))
    before = signal.getsignal(signal.SIGTERM)

    ending = fetch(tmp_path, plan, source)

    begun = {corner[:2] for corner in source.read_scenes}
    grids = {plan.place(int(name)).grid for name in done(tmp_path, plan)}
    assert ending == Ending("later", "SIGTERM was received")
    assert begun == {(grid.left, grid.top) for grid in grids}
    assert 4 <= len(grids) < 30
    assert folders(tmp_path) == done(tmp_path, plan)
    assert signal.getsignal(signal.SIGTERM) is before
    assert fetch(tmp_path, plan, source_of(plan)) == COMPLETE


def test_after_a_signal_nobody_waits_longer_than_the_grace(tmp_path: Path) -> None:
    """What is left behind may still finish a place; without its line the next run replaces it."""
    plan, answered = plan_in(tmp_path, SMALL), threading.Event()
    num_threads = threading.active_count()

    def hang() -> None:
        terminate()
        answered.wait(HANG_S)

    ending = fetch(tmp_path, plan, source_of(plan, at_read(9, hang)), grace_s=0.1)
    is_left_behind = threading.active_count() > num_threads
    answered.set()
    wait_until(lambda: threading.active_count() == num_threads)

    assert ending == Ending("later", "SIGTERM was received")
    assert is_left_behind
    assert done(tmp_path, plan) <= folders(tmp_path)
    assert fetch(tmp_path, plan, source_of(plan)) == COMPLETE
    assert folders(tmp_path) == done(tmp_path, plan)
    assert len(folders(tmp_path)) == 30


def test_a_further_signal_ends_the_wait(tmp_path: Path) -> None:
    plan, answered = plan_in(tmp_path, SMALL), threading.Event()

    def hang() -> None:
        terminate()
        os.kill(os.getpid(), signal.SIGINT)
        answered.wait(HANG_S)

    began = time.monotonic()
    ending = fetch(tmp_path, plan, source_of(plan, at_read(9, hang)), grace_s=60)
    answered.set()
    assert ending.kind == "later"
    assert time.monotonic() - began < 40
    assert fetch(tmp_path, plan, source_of(plan)) == COMPLETE


def test_a_full_disk_leaves_no_half_place_and_the_next_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, left = plan_in(tmp_path, SMALL), threading.Semaphore(20)

    write = collect_writer._write_synced

    def fills(path: Path, content: bytes) -> None:
        if not left.acquire(blocking=False):
            path.write_bytes(content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(collect_writer, "_write_synced", fills)
        with pytest.raises(UserError, match=r"No space left on device.*again to resume"):
            fetch(tmp_path, plan, source_of(plan))

    assert folders(tmp_path) == done(tmp_path, plan)
    assert 0 < len(folders(tmp_path)) < 30
    assert fetch(tmp_path, plan, source_of(plan)) == COMPLETE
    assert len(folders(tmp_path)) == 30


def test_a_journal_that_cannot_be_written_ends_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path, SMALL)

    def fails(journal: Journal) -> None:
        raise UserError("cannot write the journal")

    monkeypatch.setattr(engine, "_FLUSH_S", -1.0)
    monkeypatch.setattr(Journal, "flush", fails)
    before = threading.active_count()
    with pytest.raises(UserError, match="cannot write the journal"):
        fetch(tmp_path, plan, source_of(plan))

    assert threading.active_count() == before


def test_if_all_is_refused_the_run_ends_before_the_spares_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path, SMALL)
    monkeypatch.setattr(engine, "_MANY_REFUSED", 10)

    def refuse(kind: str) -> None:
        raise Refused("HTTP 404")

    refusing = source_of(plan, refuse)
    with pytest.raises(UserError, match=r"last 10 places were all refused.*HTTP 404: check --col"):
        fetch(tmp_path, plan, refusing)
    late = fetch(tmp_path, plan, source_of(plan, at_read(9, lambda: None)), retry="failed")

    assert len(refusing.searched) < 90  # places and spares
    assert late == COMPLETE
    assert len(folders(tmp_path)) == 30


def test_places_that_are_refused_after_others_were_done_end_the_run_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, answered = plan_in(tmp_path, SMALL), threading.Semaphore(20)
    monkeypatch.setattr(engine, "_MANY_REFUSED", 10)

    def refuse(kind: str) -> None:
        if not answered.acquire(blocking=False):
            raise Refused("HTTP 404")

    ending = fetch(tmp_path, plan, source_of(plan, refuse))

    assert ending.kind == "later"
    assert ending.reason.startswith("the last 10 places were all refused")


def test_what_earlier_runs_did_counts_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path, SMALL)
    fetch(tmp_path, plan, source_of(plan), (1, 2))
    monkeypatch.setattr(engine, "_TICK_S", 0.0)
    seen: list[int] = []

    ending = fetch(tmp_path, plan, source_of(plan), report=lambda now: seen.append(now.done))

    assert ending == COMPLETE
    assert seen[0] >= 5  # the second block has the last 5 of 30 places
    assert seen[-1] == 30


def test_only_a_few_places_are_in_progress(tmp_path: Path) -> None:
    """So that a kill loses little: what is searched before the first read is bounded."""
    plan = plan_in(tmp_path, SMALL)
    source = source_of(plan, at_read(1, comes_back))

    assert fetch(tmp_path, plan, source).kind == "later"
    assert sum(source.searched.values()) <= 4 * source.places_per_search
    assert len({corner[:2] for corner in source.read_scenes}) <= 4
