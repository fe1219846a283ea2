"""What a run over a collection has done, and how it ended."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from datasets.collect.journal import Outcome

GO_ON_LATER = 75  # EX_TEMPFAIL of sysexits.h


@dataclass(frozen=True)
class Ending:
    """How a fetch ended.

    Attributes:
        kind: "complete", "incomplete" (spares ran out), "later" (the same command goes on), or
            "failed" (an error of the user or the machine).
        reason: In words; empty if complete.
    """

    kind: Literal["complete", "incomplete", "later", "failed"]
    reason: str = ""


@dataclass
class Progress:
    """What this shard has done so far.

    Attributes:
        wanted: Places of this shard.
        done: Of these, collected by this run or an earlier one.
        outcomes: Of the places that this run has settled.
        images: Collected by this run.
        num_bytes: Written by this run.
    """

    wanted: int
    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    images: int = 0
    num_bytes: int = 0


def incomplete(missing: int, failures: Mapping[Outcome, int], has_spares: bool) -> Ending:
    """Tell what is lacking, with the remedies that can help against it.

    Args:
        missing: Places that cannot be had.
        failures: How many were refused, have no scene, or only cloudy ones; spares included.
        has_spares: Whether more spares could replace them.
    """
    reasons, remedies = [], []
    were, have = ("was", "has") if missing == 1 else ("were", "have")
    if failures.get("refused"):
        reasons.append(f"{were} refused")
        remedies.append("ask again for those that were refused with --retry failed")
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
