"""The learning rate over a run."""

import math

import pytest

from models.schedule import lr_factor


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1), (119.9, 1), (120, 0.1), (159, 0.1), (160, 0.01), (200, 0.01)]
)
@pytest.mark.difference("schedule")
def test_step_divides_by_ten_at_the_milestones(epoch: float, expected: float) -> None:
    factor = lr_factor(epoch, 200, kind="step", milestones=(120, 160))
    assert factor == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 10.0])
def test_cosine_falls_from_one_to_zero(warmup: float) -> None:
    def factor(epoch: float) -> float:
        return lr_factor(epoch, 100, kind="cosine", warmup_epochs=warmup)

    middle = (warmup + 100) / 2
    assert factor(warmup) == pytest.approx(1)
    assert factor(middle) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0, abs=1e-12)
    assert factor(warmup + (100 - warmup) / 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


@pytest.mark.parametrize("kind", ["step", "cosine"])
def test_warm_up_rises_linearly(kind: str) -> None:
    factors = [lr_factor(e, 100, kind=kind, warmup_epochs=5) for e in (0, 1, 2.5, 4)]
    assert factors == pytest.approx([0, 0.2, 0.5, 0.8])
