"""A block of places and its spares: what to look for next, and when it is complete.

The result is the first places in the order of the plan, spares behind the others, that can be
collected, whatever the order in which their outcomes come; so that any number of shards, and a run
that was stopped, end with the same places.
"""

from collections.abc import Mapping

from datasets.collect_journal import Outcome
from datasets.collect_plan import Block


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
        failed = sum(outcome != "done" for outcome in self._outcomes.values())
        return max(0, self._wanted - (len(self._candidates) - failed))

    def begin(self) -> list[int]:
        """Return the places to look for now, which count as begun.

        They are the first candidates that are neither settled nor begun, as many as are needed if
        all that are begun succeed.
        """
        hopeful, fresh = 0, []
        for number in self._candidates:
            if hopeful == self._wanted:
                break
            outcome = self._outcomes.get(number)
            if outcome is not None and outcome != "done":
                continue
            hopeful += 1
            if outcome is None and number not in self._begun:
                fresh.append(number)
        self._begun.update(fresh)
        return fresh

    def settle(self, number: int, outcome: Outcome) -> None:
        """Note what became of a place that was begun."""
        self._begun.discard(number)
        self._outcomes[number] = outcome
