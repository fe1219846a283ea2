"""What a run tells about itself, and what is told about all shards together."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from datasets.collect import report as collect_status
from datasets.collect.journal import Journal, Record
from datasets.collect.plan import Plan
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.report import Ending, Progress, Reporter, summarise, table
from tests.references.fetch_runs import SETTINGS, plan_in
from utils.errors import UserError


class Clock:
    """Stands for the module ``time``."""

    now = 1_600_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made_up = Clock()
    monkeypatch.setattr(collect_status, "time", made_up)
    return made_up


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_in(tmp_path_factory.mktemp("status"), replace(SETTINGS, num_locations=100))


def new_requester() -> Requester:
    return Requester(RateLimit(8, 100))


def read_status(save_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((save_path / "status.json").read_bytes())
    return content


def test_rate_and_time_left_count_this_run_only(plan: Plan, tmp_path: Path, clock: Clock) -> None:
    requester = new_requester()
    requester.statistics.requests = 60
    requester.statistics.errors.update({"HTTP 503": 2})
    requester.statistics.latencies_s.extend([1.0, 2.0, 3.0])
    reporter = Reporter(tmp_path, plan, (0, 1), requester, 100)
    done = Progress(wanted=100, done=40)

    reporter(done)
    clock.now += 50
    done.done, done.images, done.outcomes = 50, 50, Counter(done=10, cloudy=4)
    reporter(done)

    status = read_status(tmp_path)
    assert (status["places_per_s"], status["images_per_s"]) == (0.2, 1.0)
    assert status["seconds_left"] == 250  # 50 places at 0.2 per second
    assert status["requests_per_image"] == 1.2
    assert status["latency_median_s"] == 2.0
    assert status["errors"] == {"HTTP 503": 2}
    assert status["outcomes"] == {"done": 10, "cloudy": 4}
    assert status["started"] == "2020-09-13T12:26:40+00:00"
    assert status["updated"] == "2020-09-13T12:27:30+00:00"
    assert status["plan"] == plan.hash


def test_the_file_is_written_at_most_every_two_seconds_and_at_the_end(
    plan: Plan, tmp_path: Path, clock: Clock
) -> None:
    reporter = Reporter(tmp_path, plan, (0, 1), new_requester(), 100)

    seen = []
    for number in range(4):
        reporter(Progress(wanted=100, done=number))
        seen.append(read_status(tmp_path)["done"])
        clock.now += 1
    reporter.end(Progress(wanted=100, done=9), Ending("later", "SIGTERM was received"))

    assert seen == [0, 0, 2, 2]
    status = read_status(tmp_path)
    assert (status["done"], status["ending"], status["reason"]) == (
        9,
        "later",
        "SIGTERM was received",
    )


def test_without_any_answer_there_are_no_figures_that_are_no_json(
    plan: Plan, tmp_path: Path, clock: Clock
) -> None:
    Reporter(tmp_path, plan, (0, 1), new_requester(), 100)(Progress(wanted=100))

    text = (tmp_path / "status.json").read_text()
    assert "NaN" not in text
    assert read_status(tmp_path)["latency_median_s"] is None
    assert read_status(tmp_path)["seconds_left"] is None


def test_a_log_has_a_line_for_so_many_places(
    plan: Plan, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = Reporter(tmp_path, plan, (0, 1), new_requester(), 10)

    for done in (40, 45, 50, 59, 60):  # 40 are of an earlier run
        reporter(Progress(wanted=100, done=done))
        clock.now += 1

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "50 of 100 places",
        "60 of 100 places",
    ]
    assert lines[1].endswith("0:00:08 left")  # 20 in 4 seconds


def test_a_log_has_a_line_a_minute_that_says_what_fails(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before the first place, and as long as there is no answer."""
    now = 1000.0
    requester = new_requester()
    requester.statistics.last_success = now
    reporter = Reporter(tmp_path, plan, (0, 1), requester, 100, clock=lambda: now)
    requester.statistics.errors["HTTP 503"] = 7
    requester.statistics.last_error = "HTTP 503"
    times = []
    for _ in range(1200):  # 10 minutes, looked at every half second
        now += 0.5
        reporter(Progress(wanted=100, done=0))
        if line := capsys.readouterr().err:
            times.append(now - 1000)
            assert line.startswith("0 of 100 places")
            assert f"no answer for {now - 1000:.0f} s, the last error: HTTP 503" in line

    assert len(times) >= 10
    assert max(after - before for before, after in pairwise([0, *times])) <= 60


@pytest.mark.parametrize("kind", ["complete", "incomplete", "later"])
def test_a_run_that_ended_has_no_time_left(
    plan: Plan, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], kind: Any
) -> None:
    reporter = Reporter(tmp_path, plan, (0, 1), new_requester(), 1000)
    reporter(Progress(wanted=100, done=0))
    clock.now += 99
    reporter.end(Progress(wanted=100, done=99), Ending(kind))

    assert " left" not in capsys.readouterr().err
    assert read_status(tmp_path)["seconds_left"] is None


def test_errors_that_threads_count_meanwhile_do_no_harm(plan: Plan, tmp_path: Path) -> None:
    class Busy(Counter[str]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    requester = new_requester()
    requester.statistics.errors = Busy({"HTTP 503": 2})

    status = Reporter(tmp_path, plan, (0, 1), requester, 100).status(Progress(wanted=100))

    assert status["errors"] == {"HTTP 503": 2}


def write_status(save_path: Path, name: str, plan: str, **content: Any) -> None:
    now = datetime.now(UTC)
    usual = {"updated": now.isoformat(), "places_per_s": 0.5, "requests": 7, "errors": {"x": 1}}
    (save_path / name).write_text(json.dumps({"plan": plan, **usual, **content}))


def test_all_shards_are_added_up(plan: Plan, tmp_path: Path) -> None:
    for number, outcomes in enumerate((["done", "done", "cloudy"], ["done", "refused"])):
        journal = Journal(tmp_path, plan.hash, (number, 2))
        with journal.opened():
            for place, outcome in enumerate(outcomes):
                noted = ("scene: HTTP 404",) * place
                record = Record(10 * number + place, outcome, passed_over=noted)  # type: ignore[arg-type]
                journal.add(record)
    old = (datetime.now(UTC) - timedelta(minutes=6)).isoformat()
    write_status(tmp_path, "status-00000-of-00002.json", plan.hash)
    write_status(tmp_path, "status-00001-of-00002.json", plan.hash)
    write_status(tmp_path, "status-00000-of-00003.json", plan.hash, updated=old)
    write_status(tmp_path, "status-00001-of-00003.json", plan.hash, ending="complete")
    write_status(tmp_path, "status-00002-of-00003.json", "another plan")

    assert summarise(tmp_path, plan) == {
        "places_wanted": 100,
        "places_done": 3,
        "places_without": {"cloudy": 1, "refused": 1},
        "scenes_passed_over": 4,
        "shards_running": 2,
        "places_per_s": 1.0,
        "seconds_left": 97,
        "requests_of_last_runs": 28,
        "errors_of_last_runs": {"x": 4},
        "endings": {"complete": 1},
    }


def test_the_table_spells_how_shards_ended(plan: Plan, tmp_path: Path) -> None:
    for number, (ending, reason) in enumerate(
        [("later", "SIGTERM was received"), ("later", "SIGTERM was received"), ("complete", "")]
    ):
        name = f"status-{number:05}-of-00003.json"
        write_status(tmp_path, name, plan.hash, ending=ending, reason=reason)

    lines = table(summarise(tmp_path, plan)).splitlines()

    assert lines[-1].split(maxsplit=1)[1] == "later (SIGTERM was received): 2, complete: 1"
    assert ["time", "left", "-"] in [line.split() for line in lines]


USUAL = {
    **{"plan": "p", "updated": "2026-11-25T00:00:00+00:00"},
    **{"places_per_s": 1.0, "requests": 1, "errors": {}},
}
WRONG: list[dict[str, Any]] = [
    *({"places_per_s": value} for value in (float("nan"), 1e300, -1, "fast")),
    *({"requests": value} for value in (float("inf"), "many", -1)),
    *({"errors": value} for value in ({"x": "many"}, [1])),
    *({"updated": value} for value in (5, "today")),
    {"ending": {}},
]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{}", "[" * 100_000, *(json.dumps(USUAL | wrong) for wrong in WRONG)],
    ids=range(5 + len(WRONG)),
)
def test_a_damaged_status_file_is_named(plan: Plan, tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)

    with pytest.raises(UserError, match=r"status\.json is damaged .*: delete it"):
        summarise(tmp_path, plan)


def test_a_status_cannot_control_the_terminal(plan: Plan, tmp_path: Path) -> None:
    write_status(tmp_path, "status.json", plan.hash, ending="\x1b[2J", errors={"\x1b]0;": 1})

    assert "\x1b" not in table(summarise(tmp_path, plan))
