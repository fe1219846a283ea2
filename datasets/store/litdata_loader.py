"""Batches of a stream: LitData downloads and shuffles, ``PatchDataset`` makes the samples.

This file needs LitData, which is optional: import it where a stream is opened.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from litdata import StreamingDataLoader, StreamingDataset
from torch.utils.data import get_worker_info

from datasets.seco.bad_patches import BadPatchError
from datasets.seco.samples import PatchDataset
from datasets.store.litdata import StreamedPlaces
from datasets.store.litdata_manifest import INDEX_NAME, storage_options
from datasets.store.litdata_places import Item, PlaceLoader
from utils.errors import UserError

DEFAULT_CACHE_DIR = Path.home() / ".cache" / "seco_litdata"


class LitDataLoader:
    """Batches of a stream.

    Every process takes equally many full batches, and no sample is taken twice in an epoch. The
    order is a function of (seed, epoch) and of the numbers of processes, workers and samples per
    batch; the samples depend on none of these numbers. A batch comes out of few chunks: if every
    date is a sample, it has several dates of the same place, unlike a batch from elsewhere.

    Args:
        dataset: Samples; their source is the stream.
        batch_size: Samples per batch.
        num_workers: Processes that download and read; 0 does both in this one.
        epoch: Tells the epoch whenever an order begins, see ``SeededSampler``.
        rank: Number of this process.
        world_size: Number of processes.
        pin_memory: Copy batches to memory that a GPU reads directly.
        cache_dir: Where downloaded chunks are kept, at most three quarters of the free disk.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        batch_size: int,
        num_workers: int,
        *,
        epoch: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.epoch = epoch
        self.rank = rank
        self.world_size = world_size
        self.pin_memory = pin_memory
        self.cache_dir = cache_dir or Path(os.environ.get("LITDATA_CACHE_DIR", DEFAULT_CACHE_DIR))
        self._taken = {"epoch": -1, "batches": 0}
        self._resume_at: dict[str, int] | None = None
        # What an order depends on, beside the seed and the epoch.
        self._numbers = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "world_size": world_size,
        }

    def __len__(self) -> int:
        return len(self.dataset) // (self.batch_size * self.world_size)

    def state_dict(self) -> dict[str, int]:
        return self._taken | self._numbers

    def load_state_dict(self, state: dict[str, int]) -> None:
        numbers = {name: state[name] for name in self._numbers}
        if state["batches"] % len(self) and numbers != self._numbers:
            raise UserError(
                f"the checkpoint was written within an epoch with {numbers}, not {self._numbers}: "
                "resume with these numbers, or from a checkpoint between epochs"
            )
        self._resume_at = dict(state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        state, self._resume_at = self._resume_at, None
        self._taken = {"epoch": self.epoch(), "batches": 0}
        if state is not None and state["epoch"] == self._taken["epoch"]:
            self._taken["batches"] = state["batches"] % len(self)
        for batch in self._open(self._taken["epoch"], self._taken["batches"]):
            self._taken["batches"] += 1
            yield batch

    def _open(self, epoch: int, batches: int) -> Iterable[dict[str, Any]]:
        """Stream the rest of an epoch."""
        stream = self._open_stream()
        loader = StreamingDataLoader(
            stream,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_Collate(self.dataset, epoch),
            pin_memory=self.pin_memory,
        )
        if len(loader) != len(self):  # the processes would wait for each other for ever
            raise UserError(f"this LitData plans {len(loader)} batches, not {len(self)}: update it")
        loader.current_epoch = epoch  # LitData counts from 1, and adds the 1 when an epoch begins
        if batches:
            samples = batches * self.batch_size
            state = stream.state_dict(samples, self.num_workers, self.batch_size)
            loader.load_state_dict(
                {
                    "dataset": state | {"current_epoch": epoch + 1},
                    "current_epoch": epoch + 1,
                    "num_samples_yielded": samples,
                    "latest_worker_idx": (batches - 1) % max(1, self.num_workers),
                }
            )
        return loader

    def _open_stream(self) -> StreamingDataset:
        source = self.dataset.source
        assert isinstance(source, StreamedPlaces)
        with _only_one(self.cache_dir, source.address), TemporaryDirectory() as folder:
            # LitData gets the index that was checked, and not another one that comes after it.
            Path(folder, INDEX_NAME).write_bytes(source.index)
            stream = StreamingDataset(
                source.address,
                cache_dir=str(self.cache_dir),
                index_path=folder,
                item_loader=PlaceLoader(source.starts, self.dataset.every_date),
                shuffle=True,
                item_shuffle_window=0,  # among all items of a chunk
                drop_last=True,
                seed=self.dataset.seed,
                storage_options=storage_options(source.address),
            )
        # LitData guesses these from the environment. For several nodes it keeps chunks on the node
        # that has them, but reads one that two nodes share twice, and their batches may differ in
        # number; as one node it plans every epoch anew over all processes.
        stream.distributed_env.world_size = self.world_size
        stream.distributed_env.global_rank = self.rank
        stream.distributed_env.num_nodes = 1
        stream.posix_fast = None  # on network disks it would shuffle within a process only
        return stream


@contextmanager
def _only_one(cache_dir: Path, root: str) -> Iterator[None]:
    """Let one process at a time set up the cache of a bucket, which LitData clears if it is old."""
    if "://" not in root:  # read in place
        yield
        return
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / "setup.lock"):
        yield


@dataclass(frozen=True)
class _Collate:
    """Makes a batch of the items of a stream; an error replaces it."""

    dataset: PatchDataset
    epoch: int

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        dataset, source = self.dataset, self.dataset.source
        assert isinstance(source, StreamedPlaces)
        indices = torch.tensor([index for index, _ in items])
        epochs = torch.full_like(indices, self.epoch)
        patches = torch.empty(len(items), dataset.num_dates, *source.patch_shape, dtype=torch.uint8)
        if get_worker_info() is not None:
            patches.share_memory_()  # now, while it is empty: a worker would copy it afterwards
        names: list[str] = []
        rows = zip(items, dataset.draw(epochs, indices).tolist(), patches.numpy(), strict=True)
        try:
            for (index, stored), drawn, target in rows:
                if isinstance(stored, str):
                    raise UserError(
                        f"{source.address}: {stored}: check the connection and the copy of the set"
                    )
                source.hold(source.place_of(index) if dataset.every_date else index, stored)
                names += self._copy(source, index, drawn, target)
        except UserError as error:
            return {"error": str(error)}
        return {"patches": patches, "epoch": epochs, "index": indices, "bad": names}

    def _copy(
        self, source: StreamedPlaces, index: int, drawn: list[int], target: np.ndarray
    ) -> list[str]:
        """Copy the patches of a sample, (T, C, H, W); return the names of bad ones."""
        try:
            for patch, pixels in zip(drawn, target, strict=True):
                pixels[:] = source.read(patch)
        except BadPatchError:  # the data set knows which sample stands in
            sample = self.dataset[self.epoch, index]
            target[:] = sample["patches"]
            return list(sample["bad"])
        return []
