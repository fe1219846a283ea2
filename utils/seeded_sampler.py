"""The order of the samples, a function of (seed, epoch)."""

from collections.abc import Callable, Iterator

import numpy as np
from pytorch_lightning import Trainer
from torch.utils.data import Sampler


class SeededSampler(Sampler[tuple[int, int]]):
    """A new order in every epoch, the same for the same seed; yields (epoch, index).

    Args:
        num_samples: Size of the data set.
        seed: Seed of the order.
        epoch: Tells the epoch whenever an order begins. Lightning's ``set_epoch`` would come too
            late for the workers of a resumed run, which read ahead before its first call.
        rank: Number of this process, which takes every ``world_size``-th sample.
        world_size: Number of processes, all of which take equally many samples.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        *,
        epoch: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = epoch
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_samples // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch()
        seeds = np.random.SeedSequence(self.seed, spawn_key=(epoch,))
        order = np.random.default_rng(seeds).permutation(self.num_samples)
        for index in order[self.rank :: self.world_size][: len(self)].tolist():
            yield epoch, index


class SeededOrder(Sampler[int]):
    """The order of a ``SeededSampler``, for data that is the same in every epoch; yields indices.

    Args:
        keys: Gives (epoch, index).
    """

    def __init__(self, keys: SeededSampler) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[int]:
        return (index for _, index in self.keys)


def epoch_of(trainer: Trainer) -> int:
    """Return the epoch that begins; ``trainer.current_epoch`` lags behind in a resumed run."""
    return trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
