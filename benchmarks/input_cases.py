"""What one core reads and augments: our sources and the original's pipeline on the same archive.

The archive is of JPEG-compressed GeoTIFFs of 264 px, as the published ones.
"""

import os
import shutil
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, count, cycle, islice, repeat
from pathlib import Path
from typing import Any, TypeVar

import rasterio.shutil
import torch
from torch import Tensor

from benchmarks.reference_pipeline import ReferenceDataset
from benchmarks.timing import Measure, one_core, rate
from datasets.bands import RGB_BANDS
from datasets.mini_earth import write_seco
from datasets.seco.data_modes import DATA_MODES
from datasets.seco.patches import SecoPatches
from datasets.seco.samples import PatchDataset
from datasets.store.loader import StoreLoader
from datasets.store.reader import PackedStore
from datasets.store.writer import pack
from utils.augment_config import AugmentConfig
from utils.cores import available_cores
from utils.data import SeededSampler, sample_keys
from utils.transforms import Augment

Item = TypeVar("Item")
Views = tuple[Tensor, list[Tensor]]  # of a query and its keys
SECO = DATA_MODES["seco"]
FOLDER, ZIP, STORE = "seco", "seco.zip", "store"  # in the folder of the archive
CPU = torch.device("cpu")
CROP_SIZE = 224  # the paper's, also if smaller views are trained


def make_archive(
    root: Path, num_places: int, num_drawn: int, data_dir: Path | None = None, size: int = 264
) -> None:
    """Write the same places as a folder, a zip and a packed store.

    Args:
        root: Folder to write into.
        num_places: Places; those beyond the drawn or copied ones link to their files, because a
            linked place is decoded, or packed, again.
        num_drawn: Places of the miniature Earth that are drawn.
        data_dir: Copy the first places of this folder instead.
        size: Side of the drawn patches in pixels.
    """
    folder = root / FOLDER
    if data_dir is None:
        write_seco(folder, num_places=num_drawn, num_dates=5, size=size, bands=RGB_BANDS)
        for path in folder.glob("*/*/*.tif"):  # the miniature Earth is lossless
            lossy = path.with_suffix(".jpeg")
            rasterio.shutil.copy(path, lossy, driver="GTiff", compress="JPEG")
            lossy.replace(path)
    else:
        given = [path for path in sorted(data_dir.iterdir()) if path.is_dir()][:num_places]
        for number, place in enumerate(given):
            shutil.copytree(place, folder / f"{number:06d}")
    places = sorted(folder.iterdir())
    for number in range(len(places), num_places):
        twin = places[number % len(places)]
        shutil.copytree(twin, folder / f"{number:06d}", copy_function=os.link)
    shutil.make_archive(str(root / FOLDER), "zip", root, FOLDER)
    pack(SecoPatches(folder), root / STORE, num_workers=available_cores())


@contextmanager
def input_cases(
    archive: Path, num_samples: int, batch_size: int = 16
) -> Iterator[dict[str, Measure]]:
    """Measure reading, augmentation and both, in samples per second of one core.

    Args:
        archive: Folder of ``make_archive``; it is in the page cache after the first round.
        num_samples: Samples per repeat. A store is read in whole epochs.
        batch_size: Samples of a batch from a store.
    """
    reference = ReferenceDataset(archive / FOLDER, CROP_SIZE)
    folder, zipped = (PatchDataset(SecoPatches(archive / name)) for name in (FOLDER, ZIP))
    store, ram = (PackedStore(archive / STORE) for _ in range(2))
    ram.load()
    views = partial(seco_views, Augment(store.input_spec, AugmentConfig(crop_size=CROP_SIZE)))
    places = cycle(range(len(reference)))
    pictures = [reference.read(place) for place in islice(places, num_samples)]
    with one_core(), closing(endless(store_loader(store, batch_size))) as batches:
        samples: dict[str, Iterator[object]] = {
            "read/reference": map(reference.read, places),
            "read/folder": map(folder.__getitem__, endless(_order(folder))),
            "read/zip": map(zipped.__getitem__, endless(_order(zipped))),
            "augment/reference": map(reference.views, cycle(pictures)),
            "input/reference": map(reference.__getitem__, places),
        }
        batched: dict[str, Iterator[object]] = {
            "augment/ours": map(views, repeat(next(batches))),
            "input/store": map(views, batches),
        }
        yield (
            {name: _draw(items, num_samples, 1) for name, items in samples.items()}
            | {name: _draw(items, num_samples, batch_size) for name, items in batched.items()}
            | {
                f"read/{n}": _read_epochs(s, batch_size)
                for n, s in (("store", store), ("ram", ram))
            }
        )


def _draw(items: Iterator[object], num_samples: int, samples_per_item: int) -> Measure:
    """Measure the drawing of so many samples from an iterator that never ends."""
    number = -(-num_samples // samples_per_item)
    return rate(lambda: _consume(islice(items, number)), number * samples_per_item, CPU)


def _read_epochs(store: PackedStore, batch_size: int, num_epochs: int = 4) -> Measure:
    """Measure the way of whole epochs into batches in memory, start and end included."""
    loader = store_loader(store, batch_size)
    units = num_epochs * len(loader) * batch_size
    epochs = partial(chain.from_iterable, [loader] * num_epochs)
    return rate(lambda: _consume(epochs()), units, CPU)


def _consume(items: Iterable[object]) -> None:
    deque(items, maxlen=0)


def seco_views(augment: Augment, batch: dict[str, Any]) -> Views:
    """Turn patches into query and keys, as ``SecoDataModule`` does.

    Args:
        augment: Draws and makes the views.
        batch: Samples of the loader; "patches" are uint8, shape (B, T, C, H, W).
    """
    patches, keys = batch["patches"], sample_keys(0, batch["epoch"], batch["index"])
    img_q, *img_k = (
        augment(patches[:, view.date], keys, stream, view.synthetic)
        for stream, view in enumerate(SECO.views)
    )
    return img_q, img_k


def store_loader(
    store: PackedStore, batch_size: int, num_threads: int = 1, device: torch.device = CPU
) -> StoreLoader:
    """Load samples of three dates, a new order in every epoch.

    Args:
        store: The store to read.
        batch_size: Samples per batch.
        num_threads: Threads that read.
        device: Device of the batches.
    """
    dataset = PatchDataset(store, SECO.num_dates)
    return StoreLoader(dataset, _order(dataset), batch_size, num_threads, device)


def _order(dataset: PatchDataset) -> SeededSampler:
    """Shuffle the samples; each pass is an epoch."""
    return SeededSampler(len(dataset), 0, epoch=partial(next, count()))


def endless(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Repeat, epoch after epoch."""
    while True:
        yield from items
