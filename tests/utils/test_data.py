"""SplitMix64 against its published numbers and whole numbers of Python; orders of samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.data import SeededSampler, mix, sample_keys, uniform

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


def slow_mix(x: int) -> int:
    """One step of SplitMix64 from state x, unsigned."""
    z = (x + GAMMA) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def grid(num_epochs: int, num_indices: int) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.cartesian_prod(torch.arange(num_epochs), torch.arange(num_indices))
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize(
    ("seed", "published"),
    [
        # The first outputs that other implementations state for these seeds.
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ],
)
def test_mix_gives_the_published_sequence(seed: int, published: list[int]) -> None:
    states = torch.tensor([signed((seed + n * GAMMA) & MASK) for n in range(len(published))])
    assert mix(states).tolist() == [signed(number) for number in published]


@given(INT64)
def test_mix_is_the_hash_in_whole_numbers(x: int) -> None:
    assert mix(torch.tensor([x])).item() == signed(slow_mix(x & MASK))


@given(st.integers(0, 1 << 62), st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 9))
def test_numbers_are_the_top_24_bits_of_chained_hashes(
    seed: int, epoch: int, index: int, stream: int
) -> None:
    key = slow_mix(slow_mix(slow_mix(seed) + epoch & MASK) + index & MASK)
    counter_base = slow_mix(key + stream & MASK)
    expected = [(slow_mix(counter_base + n & MASK) >> 40) / (1 << 24) for n in range(5)]
    keys = sample_keys(seed, torch.tensor([epoch]), torch.tensor([index]))
    assert keys.item() == signed(key)
    assert uniform(keys, stream, count=5)[0].tolist() == expected


def test_no_two_samples_of_many_runs_share_a_stream() -> None:
    epochs, indices = grid(100, 5000)
    keys = torch.cat([sample_keys(seed, epochs, indices) for seed in (0, 1, 2, 42)])
    assert len(torch.unique(keys)) == len(keys)


def test_no_two_views_of_a_run_start_from_the_same_counter() -> None:
    """Two streams would overlap where key + stream, or its hash + counter, meet."""
    epochs, indices = grid(20, 2000)
    keys = sample_keys(0, epochs, indices)
    starts = torch.cat([mix(keys + stream) for stream in range(4)]).sort().values
    assert (starts.diff() > 48).all()


def test_a_sample_has_the_same_numbers_in_any_batch() -> None:
    epochs, indices = grid(3, 7)
    numbers = uniform(sample_keys(1, epochs, indices), stream=2, count=6)
    order = torch.randperm(21)
    shuffled = uniform(sample_keys(1, epochs[order], indices[order]), stream=2, count=6)
    alone = uniform(sample_keys(1, epochs[5:6], indices[5:6]), stream=2, count=6)
    assert torch.equal(shuffled, numbers[order])
    assert torch.equal(alone, numbers[5:6])


def test_sampler_visits_every_sample_once_in_a_new_order_per_epoch() -> None:
    epochs = iter((0, 1))
    sampler = SeededSampler(50, seed=1, epoch=lambda: next(epochs))
    first = list(sampler)
    second = list(sampler)
    assert [epoch for epoch, _ in first + second] == [0] * 50 + [1] * 50
    orders = [[index for _, index in keys] for keys in (first, second)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] != orders[1]
    assert list(SeededSampler(50, seed=1, epoch=lambda: 1)) == second
    assert list(SeededSampler(50, seed=2, epoch=lambda: 0)) != first


def test_processes_share_the_samples_in_equal_parts() -> None:
    whole = [index for _, index in SeededSampler(11, seed=1, epoch=lambda: 0)]
    samplers = [
        SeededSampler(11, seed=1, epoch=lambda: 0, rank=rank, world_size=3) for rank in range(3)
    ]
    parts = [[index for _, index in sampler] for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers] == [3, 3, 3]
    assert [i for step in zip(*parts, strict=True) for i in step] == whole[:9]
