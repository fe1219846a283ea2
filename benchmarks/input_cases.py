"""What one core reads and augments: our sources and the original's pipeline, side by side."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count, cycle, islice, repeat
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.archive import Archive
from benchmarks.bare_loop import SECO, seco_views
from benchmarks.reference_pipeline import ReferenceDataset
from benchmarks.timing import Measure, one_core, rate
from datasets.seco.patches import SecoPatches
from datasets.seco.samples import PatchDataset
from datasets.store.loader import StoreLoader
from datasets.store.reader import PackedStore
from utils.augment_config import AugmentConfig
from utils.data import SeededSampler, sample_keys
from utils.transforms import Augment

Item = TypeVar("Item")
CPU = torch.device("cpu")
CROP_SIZE = 224  # the paper's, whatever is trained here
BATCH_SIZE = 16  # of what is augmented at once


@contextmanager
def input_cases(
    archive: Archive, num_samples: int, batch_size: int = BATCH_SIZE
) -> Iterator[dict[str, Measure]]:
    """Measure reading, augmentation and both, in samples per second of one core.

    Args:
        archive: What to read; all of it is in the page cache after the first round.
        num_samples: Samples per repeat. A store is read epoch by epoch.
        batch_size: Samples of a batch from a store.
    """
    reference = ReferenceDataset(archive.folder, CROP_SIZE)
    folder, zipped = (PatchDataset(SecoPatches(path)) for path in (archive.folder, archive.zip))
    store, ram = (PackedStore(archive.store) for _ in range(2))
    ram.load()
    augment = Augment(store.input_spec, AugmentConfig(crop_size=CROP_SIZE))

    def views(batch: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
        return seco_views(augment, batch["patches"], sample_keys(0, batch["epoch"], batch["index"]))

    places = cycle(range(len(reference)))
    pictures = [reference.read(place) for place in islice(places, num_samples)]
    with one_core(), closing(endless(store_loader(store, batch_size))) as batches:
        samples: dict[str, Iterator[object]] = {
            "read/reference": map(reference.read, places),
            "read/folder": map(folder.__getitem__, endless(sample_order(folder))),
            "read/zip": map(zipped.__getitem__, endless(sample_order(zipped))),
            "augment/reference": map(reference.views, cycle(pictures)),
            "input/reference": map(reference.__getitem__, places),
        }
        batched: dict[str, Iterator[object]] = {
            "augment/ours": map(views, repeat(next(batches))),
            "input/store": map(views, batches),
        }
        yield (
            {name: draw(items, num_samples, 1) for name, items in samples.items()}
            | {name: draw(items, num_samples, batch_size) for name, items in batched.items()}
            | {
                "read/store": read_epochs(store, batch_size),
                "read/ram": read_epochs(ram, batch_size),
            }
        )


def draw(items: Iterator[object], num_samples: int, samples_per_item: int) -> Measure:
    """Measure the drawing of so many samples from an iterator that never ends."""
    number = -(-num_samples // samples_per_item)

    def work() -> None:
        deque(islice(items, number), maxlen=0)

    return rate(work, number * samples_per_item, CPU)


def read_epochs(store: PackedStore, batch_size: int, num_epochs: int = 4) -> Measure:
    """Measure the way of whole epochs into batches in memory, start and end included."""
    loader = store_loader(store, batch_size)

    def work() -> None:
        for _ in range(num_epochs):
            for _ in loader:
                pass

    return rate(work, num_epochs * len(loader) * batch_size, CPU)


def store_loader(
    store: PackedStore,
    batch_size: int,
    num_threads: int = 1,
    device: torch.device = CPU,
) -> StoreLoader:
    """Load samples of three dates, a new order in every epoch."""
    dataset = PatchDataset(store, SECO.num_dates)
    return StoreLoader(dataset, sample_order(dataset), batch_size, num_threads, device)


def sample_order(dataset: PatchDataset) -> SeededSampler:
    """Shuffle the samples; each pass is an epoch."""
    return SeededSampler(len(dataset), 0, epoch=partial(next, count()))


def endless(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Repeat, epoch after epoch."""
    while True:
        yield from items
