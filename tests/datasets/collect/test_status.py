"""What a run reports about itself, and what is reported about all shards together."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from datasets.collect.journal import Journal, Record
from datasets.collect.plan import Plan
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.report import Ending, Progress, Reporter, summarise, table
from tests.references.fetch_runs import SETTINGS, plan_in
from utils.errors import UserError


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_in(tmp_path_factory.mktemp("status"), replace(SETTINGS, num_locations=100))


class Run:
    """A reporter whose clock is moved by hand."""

    def __init__(self, plan: Plan, save_path: Path, log_freq: int) -> None:
        self.now = 1000.0
        self.requester = Requester(RateLimit(8, 100))
        self.requester.statistics.last_success = self.now
        shown = save_path, plan, (0, 1), self.requester, log_freq
        self.report = Reporter(*shown, clock=lambda: self.now)
        self.path = save_path / "status.json"

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.path.read_bytes())
        return content


def test_rate_and_time_left_count_this_run_only(plan: Plan, tmp_path: Path) -> None:
    run = Run(plan, tmp_path, 100)
    statistics = run.requester.statistics
    done = Progress(wanted=100, done=40)

    run.report(done)
    assert run.status()["seconds_left"] is None  # no answer yet
    statistics.requests = 60
    statistics.errors.update({"HTTP 503": 2})
    run.now += 50
    done.done, done.images, done.outcomes = 50, 50, Counter(done=10, cloudy=4)
    run.report(done)

    status = run.status()
    assert (status["places_per_s"], status["images_per_s"]) == (0.2, 1.0)
    assert status["seconds_left"] == 250  # 50 places at 0.2 per second
    assert (status["requests"], status["images"]) == (60, 50)
    assert status["errors"] == {"HTTP 503": 2}
    assert status["outcomes"] == {"done": 10, "cloudy": 4}
    updated = datetime.fromisoformat(status["updated"])
    assert abs(datetime.now(UTC) - updated) < timedelta(minutes=10)
    assert status["plan"] == plan.hash


def test_the_file_is_written_at_most_every_two_seconds_and_at_the_end(
    plan: Plan, tmp_path: Path
) -> None:
    run, seen = Run(plan, tmp_path, 100), []

    for number in range(4):
        run.report(Progress(wanted=100, done=number))
        seen.append(run.status()["done"])
        run.now += 1
    run.report.end(Progress(wanted=100, done=9), Ending("later", "SIGTERM was received"))

    assert seen == [0, 0, 2, 2]
    status = run.status()
    assert [status[name] for name in ("done", "ending", "reason", "seconds_left")] == [
        *(9, "later", "SIGTERM was received", None)
    ]


def test_a_log_has_a_line_for_so_many_places(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(plan, tmp_path, 10)
    run.requester.statistics.errors["HTTP 503"] = 7
    lost: Counter[str] = Counter(done=10, cloudy=3, refused=1)

    for done in (40, 45, 50, 59, 60):  # 40 are of an earlier run
        run.report(Progress(wanted=100, done=done, outcomes=lost))
        run.now += 1
    run.report.end(Progress(wanted=100, done=61), Ending("complete"))

    tail = "0.0 images/s, 0 requests (7 failed and repeated)"
    given_up = ", 4 places given up (journal*.jsonl has the reasons)"
    assert capsys.readouterr().err.splitlines() == [
        f"50 of 100 places, 0:00:10 left, {tail}{given_up}",  # 10 in 2 seconds
        f"60 of 100 places, 0:00:08 left, {tail}{given_up}",  # 20 in 4 seconds
        f"61 of 100 places, {tail}",
    ]


def test_a_log_has_a_line_a_minute_that_says_what_fails(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before the first place, and as long as there is no answer."""
    run, times = Run(plan, tmp_path, 100), []
    run.requester.statistics.last_error = "HTTP 503"
    for _ in range(1200):  # 10 minutes, looked at every half second
        run.now += 0.5
        run.report(Progress(wanted=100, done=0))
        if line := capsys.readouterr().err:
            times.append(run.now - 1000)
            assert line.startswith("0 of 100 places")
            assert f"no answer for {times[-1]:.0f} s, the last error: HTTP 503" in line

    assert len(times) >= 10
    assert max(after - before for before, after in pairwise([0, *times])) <= 60


def write_status(save_path: Path, shard: str, plan: str, **content: Any) -> None:
    now = datetime.now(UTC)
    usual = {"updated": now.isoformat(), "places_per_s": 0.5, "requests": 7, "errors": {"x": 1}}
    text = json.dumps({"plan": plan, **usual, **content})
    (save_path / f"status-0000{shard}.json").write_text(text)


def test_all_shards_are_added_up(plan: Plan, tmp_path: Path) -> None:
    for number, outcomes in enumerate((["done", "done", "cloudy"], ["done", "refused"])):
        with Journal(tmp_path, plan.hash, (number, 2)).opened() as journal:
            for place, outcome in enumerate(outcomes):
                noted = ("scene: HTTP 404",) * place
                record = Record(10 * number + place, outcome, passed_over=noted)  # type: ignore[arg-type]
                journal.add(record)
    old = (datetime.now(UTC) - timedelta(minutes=6)).isoformat()
    stopped = {"ending": "later", "reason": "SIGTERM was received"}
    write_status(tmp_path, "0-of-00002", plan.hash)
    write_status(tmp_path, "1-of-00002", plan.hash)
    write_status(tmp_path, "0-of-00005", plan.hash, updated=old)
    write_status(tmp_path, "1-of-00005", plan.hash, ending="complete", reason="")
    write_status(tmp_path, "2-of-00005", "another plan")
    write_status(tmp_path, "3-of-00005", plan.hash, **stopped)
    write_status(tmp_path, "4-of-00005", plan.hash, **stopped)

    summary = summarise(tmp_path, plan)

    assert summary == {
        "places_wanted": 100,
        "places_done": 3,
        "places_without": {"cloudy": 1, "refused": 1},
        "scenes_passed_over": 4,
        "shards_running": 2,
        "places_per_s": 1.0,
        "seconds_left": 97,
        "requests_of_last_runs": 42,
        "errors_of_last_runs": {"x": 6},
        "endings": {"complete": 1, "later (SIGTERM was received)": 2},
    }
    lines = table(summary).splitlines()
    assert ["time", "left", "0:01:37"] in [line.split() for line in lines]
    assert lines[-1].split(maxsplit=1)[1] == "complete: 1, later (SIGTERM was received): 2"


WRONG: list[dict[str, Any]] = [
    {"places_per_s": "fast"},
    *({"requests": value} for value in (float("inf"), "many")),
    *({"errors": value} for value in ({"x": "many"}, [1])),
    *({"updated": value} for value in (5, "today")),
    {"ending": {"x": 1}},
]


@pytest.mark.parametrize("wrong", ["", "[]", "null", "{}", "[" * 100_000, *WRONG], ids=range(13))
def test_a_damaged_status_file_is_named(plan: Plan, tmp_path: Path, wrong: Any) -> None:
    write_status(tmp_path, "0-of-00002", plan.hash, **(wrong if isinstance(wrong, dict) else {}))
    if isinstance(wrong, str):
        (tmp_path / "status-00000-of-00002.json").write_text(wrong)

    with pytest.raises(UserError, match=r"status.*\.json is damaged .*: delete it"):
        summarise(tmp_path, plan)


def test_a_status_cannot_control_the_terminal(plan: Plan, tmp_path: Path) -> None:
    write_status(tmp_path, "0-of-00002", plan.hash, ending="\x1b[2J", errors={"\x1b]0;": 1})

    assert "\x1b" not in table(summarise(tmp_path, plan))
