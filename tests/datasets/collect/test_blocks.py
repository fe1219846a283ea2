"""A block ends with its first places that succeed, whatever the order in which outcomes come."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.collect.blocks import Block, BlockState

BLOCK = Block(0, range(4), range(100, 106))
CANDIDATES = [*BLOCK.places, *BLOCK.spares]


def play(succeeds: dict[int, bool], seed: int, settled: dict[int, bool]) -> tuple[BlockState, set]:
    """Settle what is begun in a random order; return the block and all that was begun."""
    order = random.Random(seed)
    known = {n: "done" if good else "cloudy" for n, good in settled.items()}
    block = BlockState(BLOCK, known)  # type: ignore[arg-type]
    open_places, begun = list(block.begin()), set()
    while open_places:
        begun |= set(open_places)
        number = open_places.pop(order.randrange(len(open_places)))
        block.settle(number, "done" if succeeds[number] else "cloudy")
        open_places += block.begin()
    return block, begun


@given(st.lists(st.booleans(), min_size=10, max_size=10), st.integers(0, 1000))
@pytest.mark.difference("collect-spares")
def test_the_result_is_the_first_that_succeed(successes: list[bool], seed: int) -> None:
    succeeds = dict(zip(CANDIDATES, successes, strict=True))
    expected = [n for n in CANDIDATES if succeeds[n]][: len(BLOCK.places)]

    block, begun = play(succeeds, seed, {})

    assert block.done == expected
    assert block.is_complete == (len(expected) == 4)
    assert block.missing == 4 - len(expected)
    last = expected[-1] if block.is_complete else CANDIDATES[-1]
    assert begun == set(CANDIDATES[: CANDIDATES.index(last) + 1])  # nothing more is looked for


@given(
    st.lists(st.booleans(), min_size=10, max_size=10),
    st.sets(st.integers(0, 9)),
    st.integers(0, 1000),
)
def test_a_block_that_goes_on_ends_with_the_same_places(
    successes: list[bool], before: set[int], seed: int
) -> None:
    succeeds = dict(zip(CANDIDATES, successes, strict=True))
    whole, reached = play(succeeds, 0, {})
    settled = {CANDIDATES[i]: succeeds[CANDIDATES[i]] for i in before if CANDIDATES[i] in reached}

    block, begun = play(succeeds, seed, settled)

    assert block.done == whole.done
    assert not begun & settled.keys()


def test_at_first_only_the_places_that_are_asked_for_are_looked_for() -> None:
    block = BlockState(BLOCK, {})

    assert block.begin() == [0, 1, 2, 3]
    assert block.begin() == []
    block.settle(2, "no_scene")
    block.settle(0, "refused")
    assert block.begin() == [100, 101]


@pytest.mark.parametrize("outcome", ["no_scene", "cloudy", "refused"])
def test_without_spares_a_failure_is_missing(outcome: str) -> None:
    block = BlockState(Block(0, range(2), range(0)), {})

    block.begin()
    block.settle(0, "done")
    block.settle(1, outcome)  # type: ignore[arg-type]

    assert (block.begin(), block.missing, block.is_complete) == ([], 1, False)


@given(
    st.lists(st.sampled_from(["done", "cloudy", None]), min_size=10, max_size=10),
    st.lists(st.booleans(), min_size=10, max_size=10),
    st.integers(0, 1000),
)
def test_a_retry_never_gives_more_places_than_are_wanted(
    outcomes: list[str | None], successes: list[bool], seed: int
) -> None:
    """Failed places are open again, also those in front of spares that are done."""
    known = {n for n, outcome in zip(CANDIDATES, outcomes, strict=True) if outcome == "done"}
    known = set(sorted(known)[:4])
    succeeds = {n: n in known or good for n, good in zip(CANDIDATES, successes, strict=True)}

    block, begun = play(succeeds, seed, dict.fromkeys(known, True))

    assert len(block.done) == min(4, sum(succeeds.values()))
    assert known <= set(block.done)
    assert not begun & known


def test_what_failed_is_counted_by_outcome() -> None:
    block = BlockState(BLOCK, {0: "done", 1: "cloudy", 2: "refused", 3: "cloudy", 999: "no_scene"})

    assert block.failures == {"cloudy": 2, "refused": 1}
