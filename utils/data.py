"""Which samples are drawn, and in which order: random numbers, samplers, subsets and a loader.

Random numbers are a pure function of (seed, epoch, sample, view), batched on any device: the hash
SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit integers, of their position. So
samples can be drawn in any order, and a resumed run continues with the same numbers.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

if TYPE_CHECKING:  # worker processes that are not forks import this file without Lightning
    from pytorch_lightning import Trainer

T = TypeVar("T")
# SplitMix64's constants as signed integers: torch has no unsigned 64-bit arithmetic.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLY_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:  # as if unsigned
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
        Keys of shape (B,); distinct for distinct indices of one epoch.
    """
    return mix(mix(mix(torch.full_like(epochs, seed)) + epochs) + indices)


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """Return the seed of an epoch in a process, which a resumed run needs.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch, counted from 0.
        process: Rank of the process.
    """
    return int(sample_keys(seed, torch.tensor([epoch]), torch.tensor([process])))


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Draw ``count`` numbers in [0, 1) per key: multiples of 2**-24, float32, shape (B, count).

    Args:
        keys: Result of ``sample_keys``, shape (B,).
        stream: Which of a sample's streams, for example the number of the view.
        count: Numbers per sample.
    """
    counters = torch.arange(count, device=keys.device)
    hashed = mix(mix(keys + stream)[:, None] + counters)
    return _shift_right(hashed, 40).float() * 2.0**-24


class SeededSampler(Sampler[tuple[int, int]]):
    """A new order in every epoch, the same for the same seed; yields (epoch, index).

    Args:
        num_samples: Size of the data set.
        seed: Seed of the order.
        epoch: Returns the current epoch whenever an order begins. Lightning's ``set_epoch`` comes
            too late for the workers of a resumed run, which read ahead before its first call.
        done: Returns how many samples of this epoch the process has taken before it resumed.
        rank: Number of this process, which takes every ``world_size``-th sample.
        world_size: Number of processes, all of which take equally many samples.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        *,
        epoch: Callable[[], int],
        done: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_samples, self.seed = num_samples, seed
        self.epoch, self.done = epoch, done
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.num_samples // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch()
        seeds = np.random.SeedSequence(self.seed, spawn_key=(epoch,))
        order = np.random.default_rng(seeds).permutation(self.num_samples)
        for index in order[self.rank :: self.world_size][self.done() : len(self)].tolist():
            yield epoch, index


class SeededOrder(Sampler[int]):
    """The indices of a ``SeededSampler``, for data that are the same in every epoch."""

    def __init__(self, keys: SeededSampler) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[int]:
        return (index for _, index in self.keys)


def epoch_of(trainer: Trainer) -> int:
    """Return the epoch that begins; ``trainer.current_epoch`` lags behind in a resumed run."""
    epochs = trainer.fit_loop.epoch_progress.current
    # A checkpoint of the last batch counts its epoch as started; so does the validation after it.
    is_over = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and not trainer.validating
    return epochs.started if is_over else epochs.processed  # type: ignore[attr-defined]


def batches_done(trainer: Trainer) -> int:
    """Return how many batches of the beginning epoch a run took before its checkpoint."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    return 0 if batches.is_last_batch else batches.current.processed  # type: ignore[attr-defined]


def random_subset(dataset: Dataset[T], frac: float, seed: int | None = None) -> Subset[T]:
    """Draw ``int(frac * N)`` of N samples without replacement, under the original's name.

    Args:
        dataset: A map-style data set of N samples.
        frac: Share to draw, in 0..1.
        seed: Seed of the draw; None draws differently each time.
    """
    count = len(dataset)  # type: ignore[arg-type]
    drawn = np.random.default_rng(seed).choice(count, int(frac * count), replace=False)
    return Subset(dataset, drawn.tolist())


def _leave_signals_to_main_process(worker: int) -> None:
    """Ignore what SLURM or a terminal sends to all processes: the main process still saves."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """Kill workers that are left at the end: they ignore the signal by which Python ends them."""
    left = [each for each in multiprocessing.active_children() if each.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report them as lost
    for process in left:
        process.kill()


class InfiniteDataLoader(DataLoader[Any]):
    """A ``DataLoader`` whose worker processes live from one epoch to the next.

    The original's name. torch had no ``persistent_workers`` when the original was written. Workers
    end with their main process, and not by a signal that requests an end.

    Args:
        dataset: Map-style data set.
        batch_size: Samples per batch; None loads single samples.
        settings: Other arguments of ``DataLoader``; workers persist unless it is set otherwise.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int | None = 1, **settings: Any) -> None:
        settings.setdefault("persistent_workers", settings.get("num_workers", 0) > 0)
        settings.setdefault("worker_init_fn", _leave_signals_to_main_process)
        super().__init__(dataset, batch_size, **settings)
        if self.num_workers:  # before the exit of this process waits for its children
            Finalize(None, _end_workers, exitpriority=0)
