"""How far a collection is: a bar or lines while it runs, status.json for tools, and a table."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from datasets.collect.journal import Outcome, Shard, read_journals, shard_name
from datasets.collect.plan import Plan
from datasets.collect.rate_limit import Requester
from utils.errors import UserError, quoted
from utils.files import read_file, remove_partials
from utils.progress import progress
from utils.report import write_json

_WRITE_S = 2.0  # between two writings of the status file
_LINE_S = 55.0  # between two lines of a log at most; it is looked at every half second
_SILENT_S = 20.0  # without an answer, from which a line says what fails
_RECENT = timedelta(minutes=5)  # a shard whose status is older does not run


@dataclass(frozen=True)
class Ending:
    """How a fetch ended."""

    # Spares ran out, the same command resumes, or an error of the user or the machine.
    kind: Literal["complete", "incomplete", "later", "failed"]
    reason: str = ""  # in words; empty if complete


@dataclass
class Progress:
    """What this shard has done so far."""

    wanted: int  # places
    done: int = 0  # places that this run or an earlier one has collected
    outcomes: Counter[str] = field(default_factory=Counter)  # of places that this run has settled
    images: int = 0  # that this run has collected
    num_bytes: int = 0  # that this run has written


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
        self._plan_hash = plan.hash
        self._requester = requester
        self._log_freq = log_freq
        self._started = clock()
        self._done_before: int | None = None
        self._written_at = self._started - _WRITE_S
        self._clock = clock
        self._logged, self._logged_at = 0, self._started
        self._bar = progress(desc="collecting", unit=" places") if sys.stderr.isatty() else None

    def __call__(self, done: Progress) -> None:
        """Show what is done."""
        now = self._clock()
        if self._done_before is None:
            self._done_before = self._logged = done.done
        if self._bar is not None:
            self._bar.total, self._bar.initial = done.wanted, self._done_before
            self._bar.update(done.done - self._bar.n)
            self._bar.set_postfix_str(self._rates(done), refresh=False)
        elif done.done - self._logged >= self._log_freq or now - self._logged_at >= _LINE_S:
            self._logged, self._logged_at = done.done, now
            left = self.status(done)["seconds_left"]
            shown = "" if left is None else f", {timedelta(seconds=left)} left"
            self._print(done, shown)
        if now - self._written_at >= _WRITE_S:
            self._written_at = now
            write_json(self._path, self.status(done))

    def end(self, done: Progress, ending: Ending) -> None:
        """Close the bar, and write the last status.

        Args:
            done: Progress of the shard.
            ending: How the fetch ended.
        """
        if self._bar is not None:
            self._bar.close()
        self._print(done)
        end = {"ending": ending.kind, "reason": ending.reason, "seconds_left": None}
        write_json(self._path, self.status(done) | end)

    def status(self, done: Progress) -> dict[str, Any]:
        """Return what tools read; times are UTC, sizes bytes, rates per second."""
        statistics = self._requester.statistics
        errors = Counter(dict(statistics.errors))  # a copy at once: threads continue to count
        elapsed = max(self._clock() - self._started, 1e-3)
        rate = (done.done - (self._done_before or 0)) / elapsed
        return {
            "plan": self._plan_hash,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "wanted": done.wanted,
            "done": done.done,
            "outcomes": dict(done.outcomes),
            "images": done.images,
            "bytes_written": done.num_bytes,
            "requests": statistics.requests,
            "errors": dict(errors.most_common(20)),
            "places_per_s": round(rate, 4),
            "images_per_s": round(done.images / elapsed, 3),
            "seconds_left": round((done.wanted - done.done) / rate) if rate > 0 else None,
        }

    def _print(self, done: Progress, left: str = "") -> None:
        text = f"{done.done} of {done.wanted} places{left}, {self._rates(done)}"
        print(text, file=sys.stderr, flush=True)

    def _rates(self, done: Progress) -> str:
        """Spell rates and losses, and for how long there was no answer."""
        status, statistics = self.status(done), self._requester.statistics
        failed = sum(status["errors"].values())
        text = f"{status['images_per_s']:.1f} images/s, {status['requests']} requests"
        text += f" ({failed} failed and repeated)" if failed else ""
        if lost := sum(n for outcome, n in done.outcomes.items() if outcome != "done"):
            text += f", {some_places(lost)} given up (journal*.jsonl has the reasons)"
        silent_s = self._clock() - statistics.last_success
        if silent_s >= _SILENT_S:
            why = f", the last error: {statistics.last_error}" if statistics.last_error else ""
            text += f"; no answer for {silent_s:.0f} s{why}"
        return text


def summarise(save_path: Path, plan: Plan) -> dict[str, Any]:
    """Add up all shards: what the journals contain, and the rate of those that are running.

    Args:
        save_path: Folder of the collection.
        plan: Its plan.

    Raises:
        UserError: A journal or a status file is damaged.
    """
    records = read_journals(save_path, plan.hash).values()
    outcomes = Counter(record.outcome for record in records)
    errors: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    requests = running = 0
    rate = 0.0
    for path in sorted(save_path.glob("status*.json")):
        try:
            status = json.loads(read_file(path))
            if status["plan"] != plan.hash:
                continue
            requests += int(status["requests"])
            errors.update({quoted(name): int(count) for name, count in status["errors"].items()})
            reason = quoted(status.get("reason", ""), 300)
            if status.get("ending"):
                endings[quoted(status["ending"]) + (f" ({reason})" if reason else "")] += 1
            elif datetime.now(UTC) - datetime.fromisoformat(status["updated"]) < _RECENT:
                running += 1
                rate += min(max(float(status["places_per_s"]), 0.0), 1e6)
        except Exception as error:  # a damaged file raises anything
            raise UserError(
                f"{path} is damaged ({quoted(str(error))}): delete it, a running shard writes it "
                "again"
            ) from error
    left = plan.num_places - outcomes["done"]
    return {
        "places_wanted": plan.num_places,
        "places_done": outcomes["done"],
        "places_without": {name: n for name, n in sorted(outcomes.items()) if name != "done"},
        "scenes_passed_over": sum(len(record.passed_over) for record in records),
        "shards_running": running,
        "places_per_s": round(rate, 4),
        "seconds_left": round(left / rate) if rate > 0 and left > 0 else None,
        "requests_of_last_runs": requests,
        "errors_of_last_runs": dict(errors.most_common(10)),
        "endings": dict(endings),
    }


def table(facts: Mapping[str, Any]) -> str:
    """Format facts as text, one line per entry; "-" where there is no value."""
    rows = []
    for name, value in facts.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{key}: {item}" for key, item in value.items()) or "-"
        elif name == "seconds_left":
            name, shown = "time_left", None if value is None else timedelta(seconds=value)
        rows.append(f"{name.replace('_', ' '):24} {'-' if shown is None else shown}")
    return "\n".join(rows)
