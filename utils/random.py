"""Random numbers as a pure function of (seed, epoch, sample, view), batched on any device.

A counter-based generator: each number is the hash of its position, so that samples can be drawn in
any order, by any number of workers, and a resumed run continues with the same numbers. The hash is
SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit integers.
"""

import torch
from torch import Tensor

# SplitMix64's constants as signed integers, for torch has no unsigned 64-bit arithmetic.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLY_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift as if unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Hash int64 values one to one; any shape."""
    x = x + _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLY_2
    return x ^ _shift_right(x, 31)


def sample_keys(seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
    """Give every sample of a run its own stream.

    Args:
        seed: Seed of the run.
        epochs: Epoch of each sample, int64, shape (B,).
        indices: Index of each sample in its data set, int64, shape (B,).

    Returns:
        Keys of shape (B,); distinct for distinct indices of one epoch, because ``mix`` is
        one to one.
    """
    return mix(mix(mix(torch.full_like(epochs, seed)) + epochs) + indices)


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """Return the seed that an epoch of a process begins with, so that it can be resumed."""
    return int(sample_keys(seed, torch.tensor([epoch]), torch.tensor([process])))


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Draw ``count`` numbers in [0, 1) per key.

    Args:
        keys: Result of ``sample_keys``, shape (B,).
        stream: Which of a sample's streams, for example the number of the view.
        count: Numbers per sample.

    Returns:
        Multiples of 2**-24, float32, shape (B, count).
    """
    counters = torch.arange(count, device=keys.device)
    hashed = mix(mix(keys + stream)[:, None] + counters)
    return _shift_right(hashed, 40).float() * 2.0**-24
