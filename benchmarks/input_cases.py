"""What one core reads and augments: our sources and the original's pipeline on the same archive.

The archive is of JPEG-compressed GeoTIFFs of 264 px, as the published ones. Every pipeline ends in
batches of normalised float views, one tensor per view.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, count, cycle, islice, repeat
from pathlib import Path
from typing import Any, TypeVar

import rasterio.shutil
import torch
from torch.utils.data import DataLoader, default_collate

from benchmarks.reference_pipeline import ReferenceDataset, Views
from benchmarks.timing import Measure, one_core, rate
from datasets.bands import RGB_BANDS
from datasets.mini_earth import write_seco
from datasets.seco.data_modes import DATA_MODES
from datasets.seco.patches import SecoPatches
from datasets.seco.samples import PatchDataset, collate
from datasets.store.loader import StoreLoader
from datasets.store.reader import PackedStore
from datasets.store.writer import pack
from utils.augment_config import AugmentConfig
from utils.cores import available_cores
from utils.data import SeededSampler, sample_keys
from utils.input_spec import InputSpec
from utils.transforms import Augment

Item = TypeVar("Item")
SECO = DATA_MODES["seco"]
FOLDER, ZIP, STORE = "seco", "seco.zip", "store"  # in the folder of the archive
CPU = torch.device("cpu")
CROP_SIZE = 224  # the paper's, also if smaller views are trained


def make_archive(
    root: Path, num_places: int, num_drawn: int, data_dir: Path | None = None, size: int = 264
) -> None:
    """Write the same places as a folder, a zip and a packed store.

    Arguments as in ``make_places``.
    """
    folder = make_places(root, num_places, num_drawn, data_dir, size)
    shutil.make_archive(str(folder), "zip", root, FOLDER)
    pack(SecoPatches(folder), root / STORE, num_workers=available_cores())


def make_places(
    root: Path, num_places: int, num_drawn: int, data_dir: Path | None = None, size: int = 264
) -> Path:
    """Write a folder of places, and return it.

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
    return folder


@contextmanager
def input_cases(
    archive: Path, num_samples: int, batch_size: int = 16
) -> Iterator[dict[str, Measure]]:
    """Measure reading, augmentation and both, in samples per second of one core.

    Args:
        archive: Folder of ``make_archive``; it is in the page cache after the first round.
        num_samples: Samples per repeat. A store is read in whole epochs.
        batch_size: Samples of a batch.
    """
    reference = ReferenceDataset(archive / FOLDER, CROP_SIZE)
    reads = sample_batches(reference.read, len(reference), batch_size)
    store = PackedStore(archive / STORE)
    augment, augment_pictures = (
        partial(seco_views, Augment(spec, AugmentConfig(crop_size=CROP_SIZE)))
        for spec in (store.input_spec, InputSpec.of_pictures())
    )
    with one_core(), closing(endless(store_loader(store, batch_size))) as batches:
        items = pipeline("reference", reads, batch_views(reference.views))
        items["augment/ours"] = map(augment_pictures, _pictures(next(batches), store.input_spec))
        items["input/store"] = map(augment, batches)
        for kind, name in (("folder", FOLDER), ("zip", ZIP)):
            read = items[f"read/{kind}"] = endless(_file_loader(archive / name, batch_size))
            items[f"input/{kind}"] = map(augment, read)
        cases = draw_batches(items, num_samples, batch_size)
        yield cases | {"read/store": _read_epochs(store, batch_size)}


def pipeline(
    name: str, batches: Iterator[Any], views: Callable[[Any], object]
) -> dict[str, Iterator[object]]:
    """Return what reading, augmentation and both yield, without end.

    Args:
        name: Name of the pipeline.
        batches: What is read, as pictures.
        views: Makes the views of a batch.
    """
    pictures = repeat(next(batches))
    kinds = {"read": batches, "augment": map(views, pictures), "input": map(views, batches)}
    return {f"{kind}/{name}": items for kind, items in kinds.items()}


def draw_batches(
    items: Mapping[str, Iterator[object]], num_samples: int, batch_size: int
) -> dict[str, Measure]:
    """Measure the drawing of batches, in samples per second.

    Args:
        items: Iterators without end, by name.
        num_samples: Samples per repeat, rounded up to whole batches.
        batch_size: Samples of a batch.
    """
    number = -(-num_samples // batch_size)

    def draw(batches: Iterator[object]) -> Measure:
        return rate(lambda: _consume(islice(batches, number)), number * batch_size, CPU)

    return {name: draw(batches) for name, batches in items.items()}


def sample_batches(
    read: Callable[[int], Item], num_places: int, batch_size: int
) -> Iterator[list[Item]]:
    """Read one place after the other, without end, into lists.

    Args:
        read: Reads the sample of a place.
        num_places: Places to begin again after.
        batch_size: Samples of a list.
    """
    samples = map(read, cycle(range(num_places)))
    while True:
        yield list(islice(samples, batch_size))


def batch_views(views: Callable[[Any], Views]) -> Callable[[list[Any]], Any]:
    """Return what torch's loader does for a batch: make views sample by sample, and stack them."""
    return lambda samples: default_collate([views(sample) for sample in samples])


def _pictures(batch: dict[str, Any], spec: InputSpec) -> Iterator[dict[str, Any]]:
    """Repeat a stored batch, stretched, with new random numbers for its views each time."""
    planes = zip(spec.stretch_table(), batch["patches"].unbind(2), strict=True)
    pictures = torch.stack([table[plane.int()] for table, plane in planes], dim=2)
    for epoch in count():
        yield batch | {"patches": pictures, "epoch": torch.full_like(batch["epoch"], epoch)}


def _file_loader(path: Path, batch_size: int) -> DataLoader[dict[str, Any]]:
    dataset = PatchDataset(SecoPatches(path), SECO.num_dates)
    return DataLoader(
        dataset, batch_size, sampler=_order(dataset), collate_fn=collate, drop_last=True
    )


def _read_epochs(store: PackedStore, batch_size: int, num_epochs: int = 4) -> Measure:
    """Measure the way of whole epochs into batches in memory, start and end included."""
    loader = store_loader(store, batch_size)
    units = num_epochs * len(loader) * batch_size
    return rate(lambda: _consume(chain.from_iterable([loader] * num_epochs)), units, CPU)


def _consume(items: Iterable[object]) -> None:
    deque(items, maxlen=0)


def seco_views(augment: Augment, batch: dict[str, Any]) -> Views:
    """Turn patches into query and keys, as ``SecoDataModule`` does.

    Args:
        augment: Draws and makes the views.
        batch: Samples of the loader; "patches" are uint8, shape (B, T, C, H, W).
    """
    patches, keys = batch["patches"], sample_keys(0, batch["epoch"], batch["index"])
    drawn = augment.draw_each(keys, SECO.streams, patches.shape[-2:])
    img_q, *img_k = (
        augment.make(patches[:, view.date], draws)
        for view, draws in zip(SECO.views, drawn, strict=True)
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
