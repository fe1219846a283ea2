"""Batches of a stream: LitData downloads and shuffles, ``PatchDataset`` makes the samples.

The samples are those of any other source; only their order is LitData's: chunks at random, and the
places of a chunk at random. This file needs LitData, which is optional: import it where a stream is
opened.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import downloader
from litdata.streaming.item_loader import BaseItemLoader, Interval
from torch.utils.data import get_worker_info

from datasets.seco.bad_patches import BadPatchError
from datasets.seco.samples import PatchDataset
from datasets.store.litdata import INDEX_NAME, StreamedPlaces, storage_options
from utils.errors import UserError
from utils.locks import locked

DEFAULT_CACHE_DIR = Path.home() / ".cache" / "seco_litdata"

Item = tuple[int, np.ndarray]  # an index, and the bytes of its place


class LitDataLoader:
    """Batches of a stream.

    Every process takes the same number of full batches, and no sample is taken twice in an epoch.
    The order is a function of (seed, epoch) and of the numbers of processes, workers and samples
    per batch; the samples depend on none of these numbers. A batch comes from few chunks: if every
    date is a sample, it has several dates of the same place, unlike a batch of another source.

    Args:
        dataset: Samples; their source is the stream.
        batch_size: Samples per batch.
        num_workers: Processes that download and read; 0 does both in this one.
        epoch: Returns the epoch whenever an order begins, see ``SeededSampler``.
        rank: Number of this process.
        world_size: Number of processes.
        pin_memory: Copy batches to memory that a GPU reads directly.
        cache_dir: Folder of downloaded chunks, which take at most three quarters of the free disk.
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
        self.epoch = epoch
        self.rank = rank
        self.pin_memory = pin_memory
        self.cache_dir = cache_dir or Path(os.environ.get("LITDATA_CACHE_DIR", DEFAULT_CACHE_DIR))
        # The order depends on these, besides the seed and the epoch.
        self._numbers = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "world_size": world_size,
        }
        self._taken = {"epoch": -1, "batches": 0}
        self._resume_at: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.dataset) // (self._numbers["batch_size"] * self._numbers["world_size"])

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

    def _open(self, epoch: int, batches: int) -> StreamingDataLoader:
        """Stream the rest of an epoch."""
        stream = self._open_stream()
        batch_size, num_workers = self._numbers["batch_size"], self._numbers["num_workers"]
        loader = StreamingDataLoader(
            stream,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=_Collate(self.dataset, epoch),
            pin_memory=self.pin_memory,
        )
        if len(loader) != len(self):  # the processes would wait for each other indefinitely
            raise UserError(f"this LitData plans {len(loader)} batches, not {len(self)}: update it")
        loader.current_epoch = epoch  # LitData counts from 1, and adds the 1 when an epoch begins
        if batches:
            samples = batches * batch_size
            state = {"current_epoch": epoch + 1}
            of_stream = stream.state_dict(samples, num_workers, batch_size) | state
            last = {"latest_worker_idx": (batches - 1) % max(1, num_workers)}
            loader.load_state_dict(
                {"dataset": of_stream, "num_samples_yielded": samples} | state | last
            )
        return loader

    def _open_stream(self) -> StreamingDataset:
        source = _source(self.dataset)
        setup: AbstractContextManager[None] = nullcontext()  # a folder is read in place
        if "://" in source.address:  # LitData clears the cache of a bucket that has changed
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            setup = locked(self.cache_dir / "setup.lock")
        with setup, TemporaryDirectory() as folder:
            # LitData gets the index that was checked, and not another one that follows it.
            Path(folder, INDEX_NAME).write_bytes(source.index)
            stream = StreamingDataset(
                source.address,
                cache_dir=str(self.cache_dir),
                index_path=folder,
                item_loader=PlaceLoader(source.starts if self.dataset.every_date else None),
                shuffle=True,
                item_shuffle_window=0,  # among all items of a chunk
                drop_last=True,
                seed=self.dataset.seed,
                storage_options=storage_options(source.address),
            )
        # LitData guesses these from the environment. For several nodes it keeps chunks on the node
        # that has them, but reads one that two nodes share twice, and their batches may differ in
        # number; as one node it plans every epoch again over all processes.
        stream.distributed_env.world_size = self._numbers["world_size"]
        stream.distributed_env.global_rank = self.rank
        stream.distributed_env.num_nodes = 1
        stream.posix_fast = None  # on network disks it would shuffle within a process only
        return stream


class PlaceLoader(BaseItemLoader):
    """Finds items in chunks, and returns their bytes without a copy; LitData notes its name.

    LitData's own ``PyTreeLoader`` numbers items by places only, deserialises what the index says,
    and reads a chunk that two workers share as a whole for every item (LitData 0.2.76). Bucket
    tests fail if a later release renames one of the two private names that this class uses.

    Args:
        starts: Number of the first patch of each place, int64, shape (P + 1,): every patch is an
            item, for which its whole place is returned. None makes every place an item.
    """

    def __init__(self, starts: np.ndarray | None = None) -> None:
        super().__init__()
        self._starts = starts
        self._first_place = np.empty(0, np.int64)  # of each chunk
        self._chunk = (-1, np.empty(0, np.uint8))  # number and memory map of the last chunk

    def setup(self, config: dict[str, Any], chunks: list[Any], *args: Any, **kwargs: Any) -> None:
        """Prepare for a set; LitData calls this in each process that is going to download."""
        # LitData has no public switch for the http that a bucket in one's own network often has.
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"
        super().setup(config, chunks, *args, **kwargs)
        self._first_place = np.cumsum([0, *(chunk["chunk_size"] for chunk in chunks)])

    def generate_intervals(self) -> list[Interval]:
        """Return which indices are in which chunk."""
        bounds = self._first_place if self._starts is None else self._starts[self._first_place]
        pairs = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        return [Interval(begin, begin, end, end) for begin, end in pairs]

    def load_item_from_chunk(
        self, index: int, chunk_index: int, chunk_filepath: str, begin: int, filesize_bytes: int
    ) -> Item:
        """Return the bytes of the place of an index: uint8, a view of the mapped chunk."""
        place = index
        if self._starts is not None:
            place = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = place - int(self._first_place[chunk_index])
        try:
            if self._chunk[0] != chunk_index:
                # There is no public way to wait for a download.
                self._wait_until_chunk_ready(chunk_index, chunk_filepath, filesize_bytes)
                # A map outlives its file, should another process evict the chunk from the cache.
                self._chunk = (chunk_index, np.memmap(chunk_filepath, np.uint8, mode="r"))
            chunk = self._chunk[1]
            # A chunk is the number of its items, their N + 1 offsets (all uint32), their bytes.
            first, last = chunk[4 + 4 * row : 12 + 4 * row].view("<u4")
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: a file cut short
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{chunk_filepath} cannot be read ({reason}): check the connection and the copy "
                "of the set"
            ) from error
        return index, chunk[first:last]

    def encode_data(
        self, data: list[bytes], sizes: list[int], flattened: list[Any]
    ) -> tuple[bytes, None]:
        """Store the bytes of an item as they are."""
        return data[0], None

    def pre_load_chunk(self, chunk_index: int, chunk_filepath: str) -> None:
        """Do nothing: a chunk is mapped when it is needed."""

    def delete(self, chunk_index: int, chunk_filepath: str) -> None:
        """Evict a chunk from the cache; LitData requests it only for one that it has downloaded."""
        Path(chunk_filepath).unlink(missing_ok=True)

    def close(self, chunk_index: int) -> None:
        """Release the last chunk."""
        self._chunk = (-1, np.empty(0, np.uint8))


@dataclass(frozen=True)
class _Collate:
    """Makes a batch of the items of a stream."""

    dataset: PatchDataset
    epoch: int

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        dataset, source = self.dataset, _source(self.dataset)
        indices = torch.tensor([index for index, _ in items])
        epochs = torch.full_like(indices, self.epoch)
        patches = torch.empty(len(items), dataset.num_dates, *source.patch_shape, dtype=torch.uint8)
        if get_worker_info() is not None:
            patches.share_memory_()  # now, while it is empty: a worker would copy it afterwards
        names: list[str] = []
        rows = zip(items, dataset.draw(epochs, indices).tolist(), patches.numpy(), strict=True)
        for (index, stored), drawn, target in rows:
            source.hold(source.place_of(index) if dataset.every_date else index, stored)
            try:
                for patch, pixels in zip(drawn, target, strict=True):
                    pixels[:] = source.read(patch)
            except BadPatchError:  # the data set knows which sample replaces it
                sample = dataset[self.epoch, index]
                target[:] = sample["patches"]
                names += sample["bad"]
        return {"patches": patches, "epoch": epochs, "index": indices, "bad": names}


def _source(dataset: PatchDataset) -> StreamedPlaces:
    assert isinstance(dataset.source, StreamedPlaces)
    return dataset.source
