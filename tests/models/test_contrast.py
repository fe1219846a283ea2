"""Each block against the formula in the paper, written as slowly as the paper writes it."""

from collections import deque
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.contrast import enqueue, info_nce_logits, spread, update_average
from utils.errors import UserError


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize(("batch", "dim", "negatives"), [(1, 2, 1), (4, 8, 6)])
def test_info_nce_is_equation_1(batch: int, dim: int, negatives: int, temperature: float) -> None:
    query, positive, others = unit(batch, dim), unit(batch, dim), unit(negatives, dim)
    expected = 0.0
    for q, k in zip(query, positive, strict=True):
        scores = [exp(float(q @ key) / temperature) for key in [k, *others]]
        expected -= log(scores[0] / sum(scores)) / batch

    logits = info_nce_logits(query, positive, others.T, temperature)
    loss = F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))

    assert logits.shape == (batch, 1 + negatives)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_identical_keys_give_chance_loss() -> None:
    same = unit(1, 8).expand(5, 8)
    logits = info_nce_logits(same, same, same.T, temperature=0.07)
    loss = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    assert loss.item() == pytest.approx(log(6), abs=1e-5)


@settings(max_examples=200)
@given(size=st.integers(1, 9), pushes=st.lists(st.integers(1, 9), max_size=8))
@pytest.mark.difference("queue")
def test_queue_is_a_ring_buffer_for_any_batch_size(size: int, pushes: list[int]) -> None:
    queue, queue_ptr = torch.zeros(2, 3, size), torch.zeros(2, 1, dtype=torch.long)
    model: deque[Tensor] = deque([torch.zeros(2, 3)] * size, maxlen=size)  # oldest first
    pushed = 0
    for count in (min(push, size) for push in pushes):
        keys = torch.arange(2.0 * count * 3).view(2, count, 3) + 100 * pushed
        enqueue(queue, queue_ptr, keys)
        model.extend(keys.unbind(dim=1))
        pushed += count
    assert queue_ptr.tolist() == [[pushed % size]] * 2
    oldest_first = queue.roll(-pushed % size, dims=2)
    torch.testing.assert_close(oldest_first, torch.stack(list(model), dim=2), rtol=0, atol=0)


def test_more_keys_than_the_queue_holds_are_refused() -> None:
    with pytest.raises(UserError, match="--num_negatives"):
        enqueue(torch.zeros(1, 3, 4), torch.zeros(1, 1, dtype=torch.long), unit(1, 5, 3))


def test_average_follows_the_closed_form() -> None:
    average, module = nn.Linear(2, 2), nn.Linear(2, 2)
    start = average.weight.detach().clone()
    for _ in range(10):
        update_average(average, module, momentum=0.9)
    torch.testing.assert_close(average.weight, 0.9**10 * start + (1 - 0.9**10) * module.weight)


def test_average_leaves_batch_norm_statistics_alone() -> None:
    average, module = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    module.running_mean = torch.ones(2)
    update_average(average, module, momentum=0.0)
    torch.testing.assert_close(average.running_mean, torch.zeros(2))


def test_spread_is_one_for_random_directions_and_zero_after_collapse() -> None:
    assert spread(unit(4096, 64)).item() == pytest.approx(1.0, abs=0.02)
    assert spread(unit(1, 64).expand(10, 64)).item() == pytest.approx(0.0, abs=1e-6)
