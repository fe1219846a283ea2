"""A block ends with its first places that succeed, in whatever order outcomes come."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.collect.blocks import BLOCK, Block, blocks_of, read_indices
from tests.references.place_files import stub_plan
from utils.errors import UserError

PLACES, SPARES = range(4), range(100, 106)
CANDIDATES = [*PLACES, *SPARES]
SUCCESSES = st.lists(st.booleans(), min_size=10, max_size=10)


def play(succeeds: dict[int, bool], seed: int, settled: dict[int, bool]) -> tuple[Block, set[int]]:
    """Settle what is begun in a random order; return the block and all that was begun."""
    order, begun = random.Random(seed), set()
    block = Block(0, PLACES, SPARES)
    block.settle({n: "done" if good else "cloudy" for n, good in settled.items()})
    open_places = list(block.begin())
    while open_places:
        begun |= set(open_places)
        number = open_places.pop(order.randrange(len(open_places)))
        block.settle({number: "done" if succeeds[number] else "cloudy"})
        open_places += block.begin()
    return block, begun


@given(SUCCESSES, st.sets(st.integers(0, 9)), st.integers(0, 1000))
@pytest.mark.difference("collect-spares")
def test_the_result_is_the_first_that_succeed_also_after_an_interruption(
    successes: list[bool], before: set[int], seed: int
) -> None:
    succeeds = dict(zip(CANDIDATES, successes, strict=True))
    expected = [n for n in CANDIDATES if succeeds[n]][: len(PLACES)]
    last = expected[-1] if len(expected) == 4 else CANDIDATES[-1]
    reached = CANDIDATES[: CANDIDATES.index(last) + 1]
    settled = {CANDIDATES[i]: succeeds[CANDIDATES[i]] for i in before if CANDIDATES[i] in reached}

    block, begun = play(succeeds, seed, settled)

    assert block.done == expected
    assert block.is_complete == (len(expected) == 4)
    assert block.missing == 4 - len(expected)
    assert not begun & settled.keys()
    assert begun <= set(reached)  # nothing more is looked for


@given(st.sets(st.integers(0, 9), max_size=4), SUCCESSES, st.integers(0, 1000))
def test_a_retry_never_gives_more_places_than_are_wanted(
    done: set[int], successes: list[bool], seed: int
) -> None:
    """Failed places are open again, also those in front of spares that are done."""
    known = {CANDIDATES[i] for i in done}
    succeeds = {n: n in known or good for n, good in zip(CANDIDATES, successes, strict=True)}

    block, begun = play(succeeds, seed, dict.fromkeys(known, True))

    assert len(block.done) == min(4, sum(succeeds.values()))
    assert known <= set(block.done)
    assert not begun & known


def test_only_as_many_are_begun_as_are_needed_and_failures_are_counted() -> None:
    block = Block(0, PLACES, SPARES)

    assert (block.begin(), block.begin()) == ([0, 1, 2, 3], [])
    block.settle({2: "no_scene", 0: "refused", 999: "cloudy"})
    assert block.begin() == [100, 101]
    assert block.failures == {"no_scene": 1, "refused": 1}
    alone = Block(0, range(2), ())
    alone.begin()
    alone.settle({0: "done", 1: "cloudy"})
    assert (alone.begin(), alone.missing, alone.is_complete) == ([], 1, False)


@settings(max_examples=60)
@given(st.integers(1, 400), st.integers(0, 900))
def test_blocks_share_all_places_and_spares(num_places: int, num_spares: int) -> None:
    plan = stub_plan(num_places, num_spares)
    blocks = blocks_of(plan)
    for number in range(3):
        shard = blocks_of(plan, None, (number, 3))
        assert [vars(block) for block in shard] == [vars(block) for block in blocks[number::3]]
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert [n for block in blocks for n in block.places] == list(range(num_places))
    spares = [n for block in blocks for n in block.spares]
    assert spares == list(range(num_places, num_places + num_spares))
    for block in blocks:
        assert all(number // BLOCK == block.number for number in block.places)
        fair = num_spares * len(block.places) / num_places
        assert abs(len(block.spares) - fair) < 1


@settings(max_examples=60)
@given(st.sets(st.integers(0, 199), min_size=1))
def test_blocks_of_some_places_are_those_blocks_without_spares(indices: set[int]) -> None:
    blocks = blocks_of(stub_plan(200, 100), indices)
    assert [n for block in blocks for n in block.places] == sorted(indices)
    for block in blocks:
        assert {n // BLOCK for n in block.places} == {block.number}
        assert len(block.spares) == 0


@pytest.mark.parametrize("text", ["3\n1\n59\n", "\ufeff1, 3,59", " 59 1\t3\r\n", "1\n\n3,59,3\n"])
def test_indices_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    assert read_indices(tmp_path / "list", stub_plan(60, 0)) == {1, 3, 59}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"1\ntwo\n", "has two: list numbers of places, from 0 to 59"),
        (b"60\n", "has 60: list"),
        (b"-1\n", "has -1: list"),
        (b"1.0\n", r"has 1\.0: list"),
        (b"9" * 5000, r"has 9{80}\.\.\.: list"),
        ("٣\n".encode(), "has ٣: list"),
        (b"1\x1b[2J\n", r"has '1\\x1b\[2J': list"),
        (b" \n", "has nothing"),
        (b"\xff\xfe\x00", "cannot be read as text"),
        (None, "No such file"),
    ],
)
def test_indices_with_garbage_are_refused(
    tmp_path: Path, text: bytes | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "list").write_bytes(text)
    with pytest.raises(UserError, match=sentence) as caught:
        read_indices(tmp_path / "list", stub_plan(60, 30))
    assert str(caught.value).isprintable()


def test_a_pipe_of_indices_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list")
    with pytest.raises(UserError, match="not a regular file"):
        read_indices(tmp_path / "list", stub_plan(60, 0))


def test_indices_are_refused_where_only_whole_blocks_have_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be collected into a packed store"):
        read_indices(tmp_path / "list", stub_plan(60, 0, format="packed"))
