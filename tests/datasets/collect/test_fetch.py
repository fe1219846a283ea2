"""The engine over a source without a network: complete, the same after any trouble, and bounded."""

import random
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

import datasets.collect.fetch as engine
from datasets.collect.journal import read_journals
from datasets.collect.report import Ending
from datasets.collect.scenes import ComeBack, PatchGrid, Refused, Scene
from datasets.miniature.services.catalogue import Catalogue
from tests.references.fetch_runs import SETTINGS, fetch, plan_in, tree
from tests.servers.fake_source import FakeSource
from utils.errors import UserError
from utils.retry import Transient

COMPLETE = Ending("complete")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of 30 places x 2 dates. Read only."""
    save_path = tmp_path_factory.mktemp("collect") / "undisturbed"
    plan = plan_in(save_path)
    assert fetch(save_path, plan, FakeSource(plan.settings)) == COMPLETE
    return save_path


def folders(save_path: Path) -> set[str]:
    return {path.name for path in save_path.iterdir() if path.is_dir()}


def after(number: int, error: Exception) -> Callable[[str], None]:
    """Answer so many requests, and then raise."""
    left = threading.Semaphore(number)

    def fault(kind: str) -> None:
        if not left.acquire(blocking=False):
            raise error

    return fault


def test_the_result_has_exactly_the_requested_number_of_places(undisturbed: Path) -> None:
    plan = plan_in(undisturbed)
    records = read_journals(undisturbed, plan.hash)
    done = {f"{n:06d}" for n, record in records.items() if record.outcome == "done"}

    assert len(done) == 30 < len(records)  # spares were needed
    assert folders(undisturbed) == done
    for name in done:
        times = [scene.name.partition("_")[0] for scene in (undisturbed / name).iterdir()]
        assert len(set(times)) == len(times) == 2


def test_faults_do_not_change_the_result(undisturbed: Path, tmp_path: Path) -> None:
    """30 % of the requests fail in every way that passes."""
    rng, lock = random.Random(1), threading.Lock()
    kinds = [{}, {"is_quota": True}, {"is_strange": True}, {"wait_s": 0.01}]

    def fault(kind: str) -> None:
        with lock:
            fails, how = rng.random() < 0.3, rng.choice(kinds)
        if fails:
            raise Transient("trouble", **how)  # type: ignore[arg-type]

    plan = plan_in(tmp_path / "c")
    assert fetch(tmp_path / "c", plan, FakeSource(plan.settings, fault=fault)) == COMPLETE
    assert tree(tmp_path / "c") == tree(undisturbed)


def test_shards_give_the_same_set_as_one(undisturbed: Path, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "c")
    for number in range(2):
        assert fetch(tmp_path / "c", plan, FakeSource(plan.settings), (number, 2)) == COMPLETE

    assert tree(tmp_path / "c") == tree(undisturbed)


def test_a_run_that_comes_back_requests_nothing_that_is_recorded(
    undisturbed: Path, tmp_path: Path
) -> None:
    plan = plan_in(tmp_path)
    fault = after(20, ComeBack("the quota of the month is used up"))
    first = fetch(tmp_path, plan, FakeSource(plan.settings, fault=fault))
    known = set(read_journals(tmp_path, plan.hash))
    again = FakeSource(plan.settings)

    assert first == Ending("later", "the quota of the month is used up")
    assert fetch(tmp_path, plan, again) == COMPLETE
    assert 0 < len(known) < 30
    assert not known & set(again.searched)
    assert tree(tmp_path) == tree(undisturbed)


def test_an_error_of_the_user_ends_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    fault = after(20, UserError("Earth Engine refuses this project"))

    with pytest.raises(UserError, match="refuses this project"):
        fetch(tmp_path, plan, FakeSource(plan.settings, fault=fault))

    records = read_journals(tmp_path, plan.hash)
    done = {f"{n:06d}" for n, record in records.items() if record.outcome == "done"}
    assert done == folders(tmp_path) != set()


def test_answers_of_somebody_else_end_the_run(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    source = FakeSource(plan.settings, fault=after(0, Transient("a page", is_strange=True)))

    ending = fetch(tmp_path, plan, source)

    assert ending == Ending("later", "the answers are not those of the service: a page")
    assert max(source.searched.values()) == 3  # a few in a row


def test_places_without_an_answer_are_left_for_later(undisturbed: Path, tmp_path: Path) -> None:
    plan = plan_in(tmp_path)

    def on_read(scene: Scene, grid: PatchGrid) -> None:
        if grid == plan.place(3).grid:
            raise Transient("HTTP 429", is_quota=True)

    source = FakeSource(plan.settings, on_read=on_read)
    ending = fetch(tmp_path, plan, source, budget_s=0.05)

    assert ending == Ending("later", "1 place got no answer, the last error: HTTP 429")
    assert 3 not in read_journals(tmp_path, plan.hash)
    assert fetch(tmp_path, plan, FakeSource(plan.settings)) == COMPLETE
    assert tree(tmp_path) == tree(undisturbed)


def test_a_scene_that_is_refused_is_replaced_by_the_next_of_its_window(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    refused: set[str] = set()

    def on_read(scene: Scene, grid: PatchGrid) -> None:
        if scene.name.endswith(("F", "H", "K", "M")):
            refused.add(scene.name)
            raise Refused("HTTP 404")

    source = FakeSource(plan.settings, Catalogue(cloudiness=0.0), on_read=on_read)
    assert fetch(tmp_path, plan, source) == COMPLETE
    written = {path.name for path in tmp_path.glob("*/*") if path.is_dir()}
    assert refused
    assert not refused & written


def test_used_up_spares_are_reported_and_requested_again_on_demand(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, replace(SETTINGS, spares=0.0))
    again = FakeSource(plan.settings, Catalogue(cloudiness=0.0))

    first = fetch(tmp_path, plan, FakeSource(plan.settings, Catalogue(cloudiness=0.8)))
    unchanged = fetch(tmp_path, plan, again)

    assert first == unchanged
    assert first.kind == "incomplete"
    assert "no spare is left" in first.reason
    assert not again.searched
    assert fetch(tmp_path, plan, again, retry="all") == COMPLETE


def test_a_retry_of_a_complete_collection_requests_nothing(
    undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "c")
    plan = plan_in(tmp_path / "c")
    again = FakeSource(plan.settings)

    assert fetch(tmp_path / "c", plan, again, retry="all") == COMPLETE
    assert not again.searched


def test_only_the_listed_places_are_collected(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    source = FakeSource(plan.settings, Catalogue(cloudiness=0.0))

    assert fetch(tmp_path, plan, source, indices=[29, 4]) == COMPLETE
    assert folders(tmp_path) == {"000004", "000029"}


def test_a_disk_that_fills_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_in(tmp_path)
    monkeypatch.setattr(engine, "_TICK_S", 0.0)
    needed = 2.0 * shutil.disk_usage(tmp_path).total

    ending = fetch(tmp_path, plan, FakeSource(plan.settings), min_free_bytes=needed)

    assert ending.kind == "later"
    assert "--min_free_gb" in ending.reason


def test_a_service_that_is_silent_for_long_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock jumps once a thread has come back with an error: 4 of them ask."""
    plan, calls = plan_in(tmp_path), count()
    skipped_s = 0.0

    def fault(kind: str) -> None:
        nonlocal skipped_s
        if next(calls) >= 4:
            skipped_s = 1000.0
        raise Transient("HTTP 503")

    monkeypatch.setattr(engine, "_TICK_S", 0.01)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + skipped_s)
    monkeypatch.setattr(engine, "time", clock)
    ending = fetch(tmp_path, plan, FakeSource(plan.settings, fault=fault))

    assert ending.kind == "later"
    assert re.fullmatch(
        r"the service has not answered for 1\d\d\d s, most often: HTTP 503", ending.reason
    )
