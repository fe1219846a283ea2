"""How far a collection is: a bar or lines while it runs, status.json for tools, and a table."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datasets.collect.journal import Outcome, Shard, read_journals, shard_name
from datasets.collect.plan import Plan
from datasets.collect.rate_limit import Requester
from utils.errors import UserError, quoted
from utils.files import check_regular, remove_partials
from utils.progress import progress
from utils.report import write_json

_WRITE_S = 2.0  # between two writings of the status file
_LINE_S = 55.0  # between two lines of a log at most; it is looked at every half second
_SILENT_S = 20.0  # without an answer, from which a line says what fails


@dataclass(frozen=True)
class Ending:
    """How a fetch ended.

    Attributes:
        kind: "complete", "incomplete" (spares ran out), "later" (the same command resumes), or
            "failed" (an error of the user or the machine).
        reason: In words; empty if complete.
    """

    kind: Literal["complete", "incomplete", "later", "failed"]
    reason: str = ""


@dataclass
class Progress:
    """What this shard has done so far.

    Attributes:
        wanted: Number of places of this shard.
        done: Number of these that this run or an earlier one has collected.
        outcomes: Number of places that this run has settled, by outcome.
        images: Number of images that this run has collected.
        num_bytes: Bytes that this run has written.
    """

    wanted: int
    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    images: int = 0
    num_bytes: int = 0


def incomplete(missing: int, failures: Mapping[Outcome, int], has_spares: bool) -> Ending:
    """Describe what is missing, with the remedies that can help.

    Args:
        missing: Places that cannot be had.
        failures: How many were refused, have no scene, or only cloudy ones; spares included.
        has_spares: Whether more spares could replace them.
    """
    reasons, remedies = [], []
    were, have = ("was", "has") if missing == 1 else ("were", "have")
    if failures.get("refused"):
        reasons.append(f"{were} refused")
        remedies.append("request those that were refused again with --retry failed")
    if failures.get("no_scene") or failures.get("cloudy"):
        reasons.append(f"{have} no clear scenes")
        more = "more --spares, " if has_spares else ""
        remedies.append(
            f"collect into another --save_path with {more}a lower --clear_fraction or a higher "
            "--cloud_pct"
        )
    spent = " and no spare is left" if has_spares else ""
    shown = ", ".join(f"{number} {outcome}" for outcome, number in sorted(failures.items()))
    what = f"{some_places(missing)} {' or '.join(reasons)}{spent}"
    counts = f"({shown}; journal*.jsonl has the reasons)"
    return Ending("incomplete", f"{what} {counts}: {', or '.join(remedies)}")


def some_places(count: int) -> str:
    """Spell a number of places."""
    return f"{count} place" if count == 1 else f"{count} places"


class Reporter:
    """Shows the progress of a shard, and writes it down.

    Args:
        save_path: Folder of the collection.
        plan: Plan that is collected.
        shard: Number and count.
        requester: Requester whose statistics are shown.
        log_freq: Places between two lines, if there is no terminal; there is also one a minute.
        clock: Seconds, of the same origin as the statistics; another one in tests.
    """

    def __init__(
        self,
        save_path: Path,
        plan: Plan,
        shard: Shard,
        requester: Requester,
        log_freq: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = save_path / shard_name("status", shard, ".json")
        remove_partials(self._path)
        self._head = {"plan": plan.hash, "shard": list(shard), "pid": os.getpid()}
        self._requester = requester
        self._log_freq = log_freq
        self._started = time.time()
        self._done_before: int | None = None
        self._written = 0.0
        self._clock = clock
        self._logged, self._logged_at = 0, clock()
        self._bar = progress(desc="collecting", unit=" places") if sys.stderr.isatty() else None

    def __call__(self, done: Progress) -> None:
        """Show what is done."""
        if self._done_before is None:
            self._done_before = self._logged = done.done
        if self._bar is not None:
            self._bar.total, self._bar.initial = done.wanted, self._done_before
            self._bar.update(done.done - self._bar.n)
            self._bar.set_postfix_str(self._rates(done) + self._trouble(), refresh=False)
        elif (
            done.done - self._logged >= self._log_freq or self._clock() - self._logged_at >= _LINE_S
        ):
            self._logged, self._logged_at = done.done, self._clock()
            line = f"{self._line(done)}{self._time_left(done)}{self._trouble()}"
            print(line, file=sys.stderr, flush=True)
        if time.time() - self._written >= _WRITE_S:
            self._write(done, None)

    def end(self, done: Progress, ending: Ending) -> None:
        """Close the bar, and write the last status."""
        if self._bar is not None:
            self._bar.close()
        print(self._line(done), file=sys.stderr, flush=True)
        self._write(done, ending)

    def status(self, done: Progress) -> dict[str, Any]:
        """Return what tools read; times are UTC, sizes bytes, rates per second."""
        statistics = self._requester.statistics
        errors = Counter(dict(statistics.errors))  # a copy at once: threads go on counting
        elapsed = max(time.time() - self._started, 1e-3)
        rate = (done.done - (self._done_before or 0)) / elapsed
        latencies = list(statistics.latencies_s) or [float("nan")]
        median, high = np.quantile(latencies, [0.5, 0.95]).round(4).tolist()
        return {
            **self._head,
            "started": _iso(self._started),
            "updated": _iso(time.time()),
            "wanted": done.wanted,
            "done": done.done,
            "outcomes": dict(done.outcomes),
            "images": done.images,
            "bytes_written": done.num_bytes,
            "requests": statistics.requests,
            "requests_per_image": round(statistics.requests / done.images, 3)
            if done.images
            else None,
            "errors": dict(errors.most_common(20)),
            "latency_median_s": None if median != median else median,
            "latency_95_percent_s": None if high != high else high,
            "max_in_flight_now": int(self._requester.limit.limit),
            "places_per_s": round(rate, 4),
            "images_per_s": round(done.images / elapsed, 3),
            "seconds_left": round((done.wanted - done.done) / rate) if rate > 0 else None,
        }

    def _write(self, done: Progress, ending: Ending | None) -> None:
        self._written = time.time()
        end: dict[str, Any] = {}
        if ending is not None:
            end = {"ending": ending.kind, "reason": ending.reason, "seconds_left": None}
        write_json(self._path, self.status(done) | end)

    def _rates(self, done: Progress) -> str:
        status = self.status(done)
        lost = sum(count for outcome, count in done.outcomes.items() if outcome != "done")
        errors = sum(self._requester.statistics.errors.values())
        return (
            f"{status['images_per_s']:.1f} images/s, {lost} without, "
            f"{status['requests']} requests, {errors} failed"
        )

    def _line(self, done: Progress) -> str:
        return f"{done.done} of {done.wanted} places, {self._rates(done)}"

    def _time_left(self, done: Progress) -> str:
        left = self.status(done)["seconds_left"]
        return "" if left is None else f", {timedelta(seconds=left)} left"

    def _trouble(self) -> str:
        """Say for how long there was no answer, and what fails."""
        statistics = self._requester.statistics
        silent_s = self._clock() - statistics.last_success
        if silent_s < _SILENT_S:
            return ""
        why = f", the last error: {statistics.last_error}" if statistics.last_error else ""
        return f"; no answer for {silent_s:.0f} s{why}"


def summarise(save_path: Path, plan: Plan) -> dict[str, Any]:
    """Add up all shards: what the journals contain, and the rate of those that are running."""
    records = read_journals(save_path, plan.hash).values()
    outcomes = Counter(record.outcome for record in records)
    shards = [_read_status(path) for path in sorted(save_path.glob("status*.json"))]
    shards = [shard for shard in shards if shard["plan"] == plan.hash]
    running = [shard for shard in shards if not shard["ending"] and _is_recent(shard)]
    rate = round(sum(shard["places_per_s"] for shard in running), 4)
    left = plan.num_places - outcomes["done"]
    errors: Counter[str] = Counter()
    for shard in shards:
        errors.update(shard["errors"])
    return {
        "places_wanted": plan.num_places,
        "places_done": outcomes["done"],
        "places_without": {name: n for name, n in sorted(outcomes.items()) if name != "done"},
        "scenes_passed_over": sum(len(record.passed_over) for record in records),
        "shards_running": len(running),
        "places_per_s": rate,
        "seconds_left": round(left / rate) if rate > 0 and left > 0 else None,
        "requests_of_last_runs": sum(shard["requests"] for shard in shards),
        "errors_of_last_runs": dict(errors.most_common(10)),
        "endings": dict(Counter(shard["ending"] for shard in shards if shard["ending"])),
    }


def table(summary: dict[str, Any]) -> str:
    """Format a summary of a collection as text, one line per entry; "-" where there is no value."""
    rows = []
    for name, value in summary.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{key}: {item}" for key, item in value.items()) or "-"
        elif name == "seconds_left":
            name, shown = "time_left", None if value is None else timedelta(seconds=value)
        rows.append(f"{name.replace('_', ' '):24} {'-' if shown is None else shown}")
    return "\n".join(rows)


def _read_status(path: Path) -> dict[str, Any]:
    """Read what a table needs from a file that anybody may have written."""
    try:
        check_regular(path)
        content = json.loads(path.read_bytes())
        rate, requests = float(content["places_per_s"]), int(content["requests"])
        if not (0 <= rate < 1e6 and requests >= 0):
            raise ValueError(f"{rate}, {requests}")
        reason = quoted(content.get("reason", ""), 300)
        return {
            "plan": content["plan"],
            "updated": datetime.fromisoformat(content["updated"]).astimezone(UTC),
            "places_per_s": rate,
            "requests": requests,
            "errors": {quoted(name): int(count) for name, count in content["errors"].items()},
            "ending": quoted(content.get("ending", "")) + (f" ({reason})" if reason else ""),
        }
    except (
        *(OSError, ValueError, KeyError, TypeError),
        *(AttributeError, OverflowError, RecursionError),
    ) as error:
        raise UserError(
            f"{path} is damaged ({quoted(str(error))}): delete it, a running shard writes it again"
        ) from error


def _is_recent(status: dict[str, Any]) -> bool:
    return bool(datetime.now(UTC) - status["updated"] < timedelta(minutes=5))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
