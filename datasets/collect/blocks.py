"""Blocks of places and spares: which places a run collects, and when a block is complete.

The result is the first places in the order of the plan, spares after the others, that can be
collected, whatever the order in which their outcomes come; so that any number of shards, and a run
that was stopped, end with the same places.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.collect.journal import Outcome, Shard
from datasets.collect.plan import Plan
from utils.errors import UserError, quoted

BLOCK = 25  # places


@dataclass(frozen=True)
class Block:
    """Places that are collected together, and the spares that may replace them.

    Attributes:
        number: Number of the block; a shard has those that leave its number when divided by its
            count.
        places: Numbers of the requested places, ascending.
        spares: Numbers of the places in reserve, in the order of their use.
    """

    number: int
    places: Sequence[int]
    spares: range


def blocks_of(
    plan: Plan, indices: Collection[int] | None = None, shard: Shard = (0, 1)
) -> list[Block]:
    """Return the blocks of a shard, or those of some places: these then have no spares."""
    wanted, blocks = plan.num_places, []
    first, step = shard
    for number in range(first, -(-wanted // BLOCK), step):
        start, end = BLOCK * number, min(BLOCK * (number + 1), wanted)
        # A block gets its share of the spares, rounded so that all are assigned.
        spares = range(*(wanted + plan.num_spares * n // wanted for n in (start, end)))
        blocks.append(Block(number, range(start, end), spares))
    if indices is None:
        return blocks
    chosen = [tuple(n for n in block.places if n in indices) for block in blocks]
    return [
        Block(block.number, places, range(0))
        for block, places in zip(blocks, chosen, strict=True)
        if places
    ]


class BlockState:
    """What is known of a block.

    Args:
        block: Its places and spares.
        outcomes: Outcomes of places that are settled; those of other blocks are ignored.
    """

    def __init__(self, block: Block, outcomes: Mapping[int, Outcome]) -> None:
        self.block = block
        self._candidates = [*block.places, *block.spares]
        self._wanted = len(block.places)
        self._outcomes = {n: outcomes[n] for n in self._candidates if n in outcomes}
        self._begun: set[int] = set()

    @property
    def done(self) -> list[int]:
        """Places that are collected, in the order of the plan."""
        return [n for n in self._candidates if self._outcomes.get(n) == "done"]

    @property
    def is_complete(self) -> bool:
        """Whether it has all its places."""
        return len(self.done) >= self._wanted

    @property
    def missing(self) -> int:
        """Places that it cannot have, because all others failed; 0 as long as some are open."""
        return max(0, self._wanted - (len(self._candidates) - self.failures.total()))

    @property
    def failures(self) -> Counter[Outcome]:
        """Count the places that cannot be had, by outcome."""
        return Counter(outcome for outcome in self._outcomes.values() if outcome != "done")

    def begin(self) -> list[int]:
        """Return the places to look for now, which count as begun.

        They are the first candidates that are neither settled nor begun, as many as are needed if
        all that are begun succeed. All that are done count, also spares after a place that was
        lost and is requested again: the block never gets more places than it shall have.
        """
        needed = max(0, self._wanted - len(self.done) - len(self._begun))
        known = self._outcomes.keys() | self._begun
        fresh = [n for n in self._candidates if n not in known][:needed]
        self._begun.update(fresh)
        return fresh

    def settle(self, number: int, outcome: Outcome) -> None:
        """Note the outcome of a place that was begun."""
        self._begun.discard(number)
        self._outcomes[number] = outcome


def read_indices(path: Path, plan: Plan) -> set[int]:
    """Read numbers of places from text, one per line, or separated by commas or spaces.

    Returns:
        Numbers of requested places, at least one.
    """
    if plan.settings.format == "packed":  # a row's number is its place's among the whole block
        raise UserError(
            f"--indices_file {path} cannot be collected into a packed store, which takes whole "
            "blocks of places: use --format folder, and datasets/seco_packed.py later"
        )
    try:
        words = re.split(r"[\s,]+", path.read_text(encoding="utf-8-sig").strip(" \t\r\n,"))
    except OSError as error:
        raise UserError(
            f"--indices_file {path} cannot be read: {error.strerror}: check it"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"--indices_file {path} is not text: list numbers of places") from error
    if words == [""]:
        raise UserError(f"--indices_file {path} is empty: list numbers of places")
    seen: set[int] = set()
    for word in words:
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= plan.num_places:
            raise UserError(
                f"--indices_file {path} has {quoted(word)}: numbers of places are from 0 to "
                f"{plan.num_places - 1}"
            )
        if int(word) in seen:
            raise UserError(f"--indices_file {path} has {int(word)} twice: remove one")
        seen.add(int(word))
    return seen
