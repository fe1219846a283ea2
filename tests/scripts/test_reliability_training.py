"""One trial of each kind of the training's reliability tests."""

from pathlib import Path

import pytest

from benchmarks import reliability_training as trials


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "count"),
    [
        (trials.bad_steps, 8),
        (trials.kills, 4),
        (trials.hanging_reads, 2),
        (trials.shrinking_stores, 1),
        (trials.lost_outputs, 4),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_kind_of_fault_ends_as_promised(part: object, count: int, tmp_path: Path) -> None:
    assert callable(part)
    found = list(part(0, count, tmp_path))
    assert [trial for trial in found if trial.failure] == []
    assert len(found) == count
