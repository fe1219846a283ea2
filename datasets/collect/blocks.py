"""A block of places and its spares: what to look for next, and when it is complete.

The result is the first places in the order of the plan, spares behind the others, that can be
collected, whatever the order in which their outcomes come; so that any number of shards, and a run
that was stopped, end with the same places.
"""

from collections import Counter
from collections.abc import Mapping

from datasets.collect.journal import Outcome
from datasets.collect.plan import Block


class BlockState:
    """What is known of a block.

    Args:
        block: Its places and spares.
        outcomes: Of places that are settled already; those of other blocks are ignored.
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
        all that are begun succeed. All that are done count, also spares behind a place that was
        lost and is asked for again: the block never gets more places than it shall have.
        """
        needed = max(0, self._wanted - len(self.done) - len(self._begun))
        known = self._outcomes.keys() | self._begun
        fresh = [n for n in self._candidates if n not in known][:needed]
        self._begun.update(fresh)
        return fresh

    def settle(self, number: int, outcome: Outcome) -> None:
        """Note what became of a place that was begun."""
        self._begun.discard(number)
        self._outcomes[number] = outcome
