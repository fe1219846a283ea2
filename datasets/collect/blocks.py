"""Blocks of places and spares: the first in the order of the plan that can be collected.

So any number of shards, and a run that was stopped, end with the same places.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datasets.collect.journal import Outcome, Shard
from datasets.collect.plan import Plan
from utils.errors import UserError, quoted
from utils.files import MAX_TABLE_BYTES, read_file

BLOCK = 25  # places


class Block:
    """Places that are collected together, and the spares that may replace them.

    Args:
        number: Number of the block.
        places: Numbers of the requested places, ascending.
        spares: Numbers of the places in reserve, in the order of their use.
    """

    def __init__(self, number: int, places: Sequence[int], spares: Sequence[int]) -> None:
        self.number = number
        self.places = places
        self.spares = spares
        self._candidates = [*places, *spares]
        self._outcomes: dict[int, Outcome] = {}
        self._begun: set[int] = set()

    @property
    def done(self) -> list[int]:
        """Places that are collected, in the order of the plan."""
        return [n for n in self._candidates if self._outcomes.get(n) == "done"]

    @property
    def is_complete(self) -> bool:
        """Whether all its places are collected."""
        return len(self.done) >= len(self.places)

    @property
    def is_settled(self) -> bool:
        """Whether it has all its places, or no candidate is left."""
        return self.is_complete or len(self._outcomes) == len(self._candidates)

    @property
    def missing(self) -> int:
        """Number of places that it will lack, as its candidates failed; 0 while some are open."""
        return max(0, len(self.places) - (len(self._candidates) - self.failures.total()))

    @property
    def failures(self) -> Counter[Outcome]:
        """Count the places that cannot be collected, by outcome."""
        return Counter(outcome for outcome in self._outcomes.values() if outcome != "done")

    def begin(self) -> list[int]:
        """Return the places to look for now, which count as begun.

        They are the first candidates that are neither settled nor begun, as many as are needed if
        all that are begun succeed. All that are done count, also spares after a place that was
        lost and is requested again: the block never gets more places than it needs.
        """
        needed = max(0, len(self.places) - len(self.done) - len(self._begun))
        known = self._outcomes.keys() | self._begun
        fresh = [n for n in self._candidates if n not in known][:needed]
        self._begun.update(fresh)
        return fresh

    def settle(self, outcomes: Mapping[int, Outcome]) -> None:
        """Note outcomes of places; those of other blocks are ignored."""
        known = {n: outcomes[n] for n in self._candidates if n in outcomes}
        self._outcomes |= known
        self._begun -= known.keys()


def blocks_of(
    plan: Plan, indices: Collection[int] | None = None, shard: Shard = (0, 1)
) -> list[Block]:
    """Return the blocks of a shard, or those of some places: these then have no spares.

    Shard n of N has every N-th block from the n-th on.

    Args:
        plan: Plan of the collection.
        indices: Numbers of the only places to collect; None for all.
        shard: Number and count.
    """
    wanted, blocks = plan.num_places, []
    for number in range(shard[0], -(-wanted // BLOCK), shard[1]):
        start, end = BLOCK * number, min(BLOCK * (number + 1), wanted)
        if indices is None:
            # A block gets its share of the spares, rounded so that all are assigned.
            spares = range(*(wanted + plan.num_spares * n // wanted for n in (start, end)))
            blocks.append(Block(number, range(start, end), spares))
        elif chosen := [n for n in range(start, end) if n in indices]:
            blocks.append(Block(number, chosen, ()))
    return blocks


def read_indices(path: Path, plan: Plan) -> set[int]:
    """Read numbers of requested places from text, separated by line ends, commas or spaces.

    Args:
        path: File to read.
        plan: Plan of the collection.

    Raises:
        UserError: The file cannot be read, or has anything else.
    """
    if plan.settings.format == "packed":  # a row's number is its place's among the whole block
        raise UserError(
            f"--indices_file {path} cannot be collected into a packed store, which takes whole "
            "blocks of places: use --format folder, and datasets/seco_packed.py later"
        )
    try:
        words = re.findall(r"[^\s,]+", read_file(path, MAX_TABLE_BYTES).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--indices_file {path} cannot be read as text: {error}") from error
    for word in words or [""]:
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= plan.num_places:
            raise UserError(
                f"--indices_file {path} has {quoted(word) or 'nothing'}: list numbers of places, "
                f"from 0 to {plan.num_places - 1}"
            )
    return set(map(int, words))
