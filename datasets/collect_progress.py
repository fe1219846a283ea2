"""What a run over a collection has done, and how it ended."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

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
