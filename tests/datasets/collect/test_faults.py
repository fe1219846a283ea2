"""What fails because of its size, its place or its collection ends; what passes is waited for."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from datasets.collect.journal import Journal, Record, read_journals
from datasets.collect.plan import Plan, open_plan, read_plan
from datasets.collect.report import Ending, incomplete
from datasets.collect.scenes import Missing, PatchGrid, Place, Refused, Scene
from datasets.miniature.services import faults
from datasets.miniature.services.catalogue import Catalogue
from datasets.miniature.services.earth_engine import earth_engine
from datasets.miniature.services.expressions import S2
from datasets.miniature.services.faults import Fault, content, status
from tests.references.downloader_runs import PLAN, collect, flags
from tests.references.fetch_runs import SETTINGS, fetch, plan_in, tree
from tests.servers.fake_source import FakeSource
from utils.retry import Transient

SMALL = replace(SETTINGS, num_dates=1, bands=("B2",))
CLEAR = Catalogue(cloudiness=0.0)


def test_a_search_that_is_too_large_is_halved_until_it_works(tmp_path: Path) -> None:
    def judge(places: Sequence[Place]) -> None:
        if len(places) > 1:
            raise Transient("no answer in time", is_too_large=True)

    plan = plan_in(tmp_path, SMALL)
    source = FakeSource(plan.settings, CLEAR, on_search=judge)

    assert fetch(tmp_path, plan, source) == Ending("complete")
    assert max(source.searched.values()) <= 4  # among 5, 3, 2, and alone


@pytest.mark.parametrize("name", ["no answer in time", "HTTP 500"])
def test_a_place_that_always_fails_alone_is_refused_and_the_run_goes_on(
    tmp_path: Path, name: str
) -> None:
    """HTTP 500 is repeated as it is, but not for longer than a request's budget."""

    def judge(places: Sequence[Place]) -> None:
        if any(place.number == 3 for place in places):
            raise Transient(name, is_too_large=name == "no answer in time")

    plan = plan_in(tmp_path, SMALL)
    source = FakeSource(plan.settings, CLEAR, on_search=judge)

    assert fetch(tmp_path, plan, source, budget_s=0.05) == Ending("complete")
    record = read_journals(tmp_path, plan.hash)[3]
    assert (record.outcome, record.reason) == ("refused", name)
    again = FakeSource(plan.settings, CLEAR, on_search=judge)
    assert fetch(tmp_path, plan, again) == Ending("complete")
    assert not again.searched


def test_an_outage_refuses_no_place(tmp_path: Path) -> None:
    """Where nothing smaller gets an answer either, it is not the size."""

    def fault(kind: str) -> None:
        raise Transient("no answer in time", is_too_large=kind != "check")

    plan = plan_in(tmp_path, SMALL)
    ending = fetch(tmp_path, plan, FakeSource(plan.settings, fault=fault), budget_s=0.05)

    assert ending.kind == "later"
    assert read_journals(tmp_path, plan.hash) == {}


def test_pixels_that_always_take_too_long_cost_their_scene_only(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, SMALL)
    tried: list[str] = []

    def on_read(scene: Scene, grid: PatchGrid) -> None:
        if grid == plan.place(3).grid and (not tried or scene.name == tried[0]):
            tried.append(scene.name)
            raise Transient("HTTP 400, Computation timed out.", is_too_large=True)

    source = FakeSource(plan.settings, CLEAR, on_read=on_read)
    assert fetch(tmp_path, plan, source) == Ending("complete")
    assert len(tried) == 4


@pytest.mark.parametrize("times", [1, 3])
def test_an_image_that_is_missing_for_a_while_is_taken_nevertheless(
    tmp_path: Path, times: int
) -> None:
    """Not the second best of its window: a 404 is trusted only if it stays."""
    plan = plan_in(tmp_path / "c", SMALL)
    seen: Counter[tuple[object, str]] = Counter()

    def on_read(scene: Scene, grid: PatchGrid) -> None:
        seen[grid, scene.name] += 1
        if seen[grid, scene.name] <= times:
            raise Missing("HTTP 404", scene.name)

    source = FakeSource(plan.settings, CLEAR, on_read=on_read)
    assert fetch(tmp_path / "c", plan, source) == Ending("complete")
    assert fetch(
        tmp_path / "d", plan_in(tmp_path / "d", SMALL), FakeSource(SMALL, CLEAR)
    ) == Ending("complete")
    assert tree(tmp_path / "c") == tree(tmp_path / "d")


def test_a_run_that_works_no_longer_does_not_use_up_its_spares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.collect.fetch._MANY_REFUSED", 5)

    works, add = Event(), Journal.add

    def note(self: Journal, record: Record) -> None:
        add(self, record)
        if record.outcome == "done":
            works.set()

    def judge(places: Sequence[Place]) -> None:
        if works.is_set():
            raise Refused("HTTP 400")

    monkeypatch.setattr(Journal, "add", note)

    plan = plan_in(tmp_path, SMALL)
    ending = fetch(tmp_path, plan, FakeSource(plan.settings, CLEAR, on_search=judge))

    assert ending.kind == "later"
    assert "the last 5 places were all refused" in ending.reason
    assert "--retry failed" in ending.reason


def test_searches_that_the_service_finds_too_large_change_nothing(
    downloaded: Path, tmp_path: Path
) -> None:
    with earth_engine() as server:
        server.search_fault = lambda _, count: faults.TOO_LARGE["memory"] if count > 1 else None
        assert collect(flags(tmp_path / "c", server, *PLAN)) == 0
    assert tree(tmp_path / "c") == tree(downloaded)


def fails_at(plan: Plan, number: int, fault: Fault) -> Callable[[str, int], Fault | None]:
    """Fail each search for a place, also together with others."""
    grid = plan.place(number).grid
    return lambda expression, _: fault if f"{grid.left}, 0, -60, {grid.top}" in expression else None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.TOO_LARGE["504"], "Deadline exceeded"),
        (faults.missing("Image", f"{S2}/20210101T101010_20210101T101011_T32UQD"), "_T32UQD"),
    ],
)
def test_a_place_that_the_service_cannot_search_is_refused_once(
    fault: Fault, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a run without an end, nor exit code 75 indefinitely, nor one that blames a flag."""
    argv = ["--retry_wait", "0.001"]
    with earth_engine() as server:
        assert collect(flags(tmp_path / "c", server, *PLAN, "--plan")) == 0
        plan = read_plan(tmp_path / "c")
        server.search_fault = fails_at(plan, 3, fault)
        assert collect(flags(tmp_path / "c", server, *argv)) == 0
        record = read_journals(tmp_path / "c", plan.hash)[3]
        before = server.requests["search"]
        assert collect(flags(tmp_path / "c", server, *argv)) == 0

    assert record.outcome == "refused"
    assert reason in record.reason
    assert server.requests["search"] == before
    assert "--collection" not in capsys.readouterr().err


def test_trouble_at_the_start_is_tried_again_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with earth_engine() as server:
        server.faults["/$discovery/rest"] = deque([content(faults.HTML, code=403)] * 99)
        assert collect(flags(tmp_path / "c", server, *PLAN, "--give_up_after", "0.1")) == 75
    error = capsys.readouterr().err
    assert "does not answer at" in error
    assert error.count("\n") == 1


def test_a_probe_of_a_service_that_is_down_is_tried_again_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with earth_engine() as server:
        server.search_fault = lambda *_: status(503, "The service is currently unavailable.")
        argv = flags(tmp_path / "c", server, *PLAN, "--probe", "1", "--give_up_after", "0.1")
        server.faults["check"] += [status(503)] * 99
        assert collect(argv) == 75
    assert "the service does not answer" in capsys.readouterr().err


def test_a_mistyped_collection_can_be_corrected(
    downloaded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--collection", "COPERNICUS/S2_SR_HARMONISED"]
    with earth_engine() as server:
        assert collect(flags(tmp_path / "c", server, *PLAN, *argv)) == 2
        mistyped = capsys.readouterr().err
        assert collect(flags(tmp_path / "c", server, *PLAN, "--collection", S2)) == 0
        corrected = capsys.readouterr().err
        assert collect(flags(tmp_path / "c", server, *PLAN, *argv)) == 2
        refused = capsys.readouterr().err

    assert "error: --collection COPERNICUS/S2_SR_HARMONISED does not exist" in mistyped
    assert f"--collection is now {S2}, not COPERNICUS/S2_SR_HARMONISED" in corrected
    assert f"--collection is {S2} in the plan of" in refused
    assert tree(tmp_path / "c") == tree(downloaded)


def test_a_plan_that_is_replaced_meanwhile_is_not_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(save_path: Path, *given: object) -> Plan:
        plan = open_plan(save_path, *given)  # type: ignore[arg-type]
        open_plan(save_path, replace(plan.settings, seed=7), {"seed"})
        return plan

    monkeypatch.setattr("datasets.collect.plan.open_plan", replaced)
    with earth_engine() as server:
        assert collect(flags(tmp_path / "c", server, *PLAN)) == 2
    assert "another process replaced the plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failures", "has_spares", "words", "others"),
    [
        ({"refused": 3}, True, ["--retry failed", "no spare is left"], ["--spares", "all"]),
        ({"cloudy": 1, "no_scene": 2}, True, ["more --spares", "--cloud_pct"], ["--retry"]),
        ({"cloudy": 3}, False, ["--clear_fraction"], ["spare", "--retry"]),
        ({"cloudy": 1, "refused": 2}, False, ["--retry failed", "--cloud_pct"], ["spare"]),
    ],
)
def test_an_incomplete_collection_names_what_helps(
    failures: dict[Any, int], has_spares: bool, words: list[str], others: list[str]
) -> None:
    reason = incomplete(3, failures, has_spares).reason
    assert reason.startswith("3 places ")
    assert all(word in reason for word in words)
    assert not any(word in reason for word in others)


def test_places_of_a_match_file_get_no_advice_about_spares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "places.csv").write_text("lat,lng\n48.1,11.5\n")
    argv = ["--match_file", str(tmp_path / "places.csv"), *PLAN[2:]]
    with earth_engine(catalogue=Catalogue(cloudiness=1.7)) as server:
        assert collect(flags(tmp_path / "c", server, *argv)) == 1
    error = capsys.readouterr().err
    assert "error: 1 place has no clear scenes" in error
    assert "spare" not in error
