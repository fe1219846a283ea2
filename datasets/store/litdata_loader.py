"""Read chunks with LitData, in an order that takes one chunk after another.

This file needs LitData, which is optional: import it where a stream is opened.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from litdata import StreamingDataset
from litdata.streaming import downloader
from litdata.streaming.item_loader import BaseItemLoader, Interval

from datasets.store.litdata import INDEX_NAME, storage_options
from utils.data import SeededSampler
from utils.errors import UserError
from utils.locks import locked

DEFAULT_CACHE_DIR = Path.home() / ".cache" / "seco_litdata"


class PlaceLoader(BaseItemLoader):
    """Finds items in chunks, and returns their bytes; LitData notes its name.

    LitData's own ``PyTreeLoader`` deserialises what the index says, and reads a whole chunk for
    every item that is not next in line (LitData 0.2.76).
    """

    def __init__(self) -> None:
        super().__init__()
        self._chunk = -1  # number of the last chunk
        self._descriptor: int | None = None  # of its file, which another process may evict

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Prepare for a set; LitData calls this in each process that is going to download."""
        # LitData has no public switch for the http that a bucket in one's own network often has.
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"
        super().setup(*args, **kwargs)

    def generate_intervals(self) -> list[Interval]:
        """Return which places are in which chunk."""
        # LitData hands its chunks to a loader in no other way.
        bounds = np.cumsum([0, *(chunk["chunk_size"] for chunk in self._chunks)]).tolist()
        return [Interval(a, a, b, b) for a, b in pairwise(bounds)]

    def load_item_from_chunk(
        self, index: int, chunk_index: int, chunk_filepath: str, begin: int, filesize_bytes: int
    ) -> np.ndarray:
        """Return the bytes of a place, uint8; a map would end the process if the file shrinks."""
        row = index - begin
        try:
            if self._descriptor is None or self._chunk != chunk_index:
                # There is no public way to wait for a download.
                self._wait_until_chunk_ready(chunk_index, chunk_filepath, filesize_bytes)
                if self._descriptor is not None:
                    os.close(self._descriptor)
                    self._descriptor = None
                self._descriptor = os.open(chunk_filepath, os.O_RDONLY)
                self._chunk = chunk_index
            # A chunk is the number of its items, their N + 1 offsets (all uint32), their bytes.
            first, last = np.frombuffer(os.pread(self._descriptor, 8, 4 + 4 * row), "<u4").tolist()
            content = os.pread(self._descriptor, last - first, first)
            if len(content) < last - first:
                raise ValueError("it became shorter")
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: a file cut short
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{chunk_filepath} cannot be read ({reason}): check the connection and the copy "
                "of the set"
            ) from error
        return np.frombuffer(content, np.uint8)

    def encode_data(self, data: list[bytes], *args: Any) -> tuple[bytes, None]:
        """Store the bytes of an item as they are."""
        return data[0], None

    def pre_load_chunk(self, *args: Any) -> None:
        """Do nothing: a chunk is opened when it is needed."""

    def delete(self, chunk_index: int, chunk_filepath: str) -> None:
        """Evict a chunk from the cache; LitData requests it only for one that it has downloaded."""
        Path(chunk_filepath).unlink(missing_ok=True)


def open_stream(address: str, index: bytes) -> StreamingDataset:
    """Open a set of chunks, of which places are read in any order.

    Chunks of a bucket are kept in ``LITDATA_CACHE_DIR``, which LitData fills up to three quarters
    of the free disk.

    Args:
        address: Bucket with prefix, or folder.
        index: Content of its index, as it was checked.
    """
    cache_dir = Path(os.environ.get("LITDATA_CACHE_DIR", DEFAULT_CACHE_DIR))
    setup: AbstractContextManager[None] = nullcontext()  # a folder is read in place
    if "://" in address:  # LitData clears the cache of a bucket that has changed
        cache_dir.mkdir(parents=True, exist_ok=True)
        setup = locked(cache_dir / "setup.lock")
    with setup, TemporaryDirectory() as folder:
        Path(folder, INDEX_NAME).write_bytes(index)
        return StreamingDataset(
            address,
            cache_dir=str(cache_dir),
            index_path=folder,
            item_loader=PlaceLoader(),
            storage_options=storage_options(address),
        )


class ChunkOrder(SeededSampler):
    """Chunks at random, and the samples of a chunk at random; yields (epoch, index).

    Every process takes equally many samples, from chunks of its own.

    Args:
        bounds: Number of the first sample of each chunk, and of all samples, shape (C + 1,).
        seed: Seed of the order.
        shares: ``epoch``, ``done``, ``rank`` and ``world_size`` of a ``SeededSampler``.
    """

    def __init__(self, bounds: np.ndarray, seed: int, **shares: Any) -> None:
        super().__init__(int(bounds[-1]), seed, **shares)
        self._bounds = bounds.tolist()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch()
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        chunks = rng.permutation(len(self._bounds) - 1).tolist()
        order = [rng.permutation(range(*self._bounds[chunk : chunk + 2])) for chunk in chunks]
        first = self.rank * len(self)
        mine = np.concatenate(order)[first : first + len(self)][self.done() :]
        yield from ((epoch, index) for index in mine.tolist())
