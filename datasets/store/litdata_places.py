"""How a place lies in the chunks of LitData: the raw bytes of its patches, nothing to deserialise.

LitData's own item loader looks up a deserialiser by the name that ``index.json`` gives, and one of
them is pickle. This one takes the bytes as they are, so that no file from a stranger can run code.
"""

from pathlib import Path
from typing import Any

import numpy as np
from litdata.streaming import downloader
from litdata.streaming.item_loader import BaseItemLoader, Interval

# An index, and the bytes of its item; or an index, and why they could not be read.
Item = tuple[int, np.ndarray | str]


class PlaceLoader(BaseItemLoader):
    """Finds items in chunks; written by ``BinaryWriter``, which notes the name of this class.

    Args:
        starts: Number of the first patch of each place, shape (P + 1,); writing needs none.
        every_date: Each patch is an item of its own, for which its whole place is returned.
    """

    def __init__(self, starts: np.ndarray | None = None, every_date: bool = False) -> None:
        super().__init__()
        self._starts = starts
        self._every_date = every_date
        self._first_place: list[int] = []  # of each chunk
        self._chunk = (-1, np.empty(0, np.uint8))  # number and memory map of the last chunk

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Prepare for a set; LitData calls this in each process that is going to download."""
        # An endpoint of one's own is often http, which LitData refuses, and has no switch for.
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"
        super().setup(*args, **kwargs)

    def generate_intervals(self) -> list[Interval]:
        """Tell LitData which indices lie in which chunk."""
        ends = np.cumsum([chunk["chunk_size"] for chunk in self._chunks]).tolist()
        self._first_place = [0, *ends[:-1]]
        bounds = np.array([0, *ends])
        if self._every_date:
            assert self._starts is not None
            bounds = self._starts[bounds]
        pairs = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        return [Interval(begin, begin, end, end) for begin, end in pairs]

    def load_item_from_chunk(
        self, index: int, chunk_index: int, chunk_filepath: str, begin: int, filesize_bytes: int
    ) -> Item:
        """Return the bytes of the place of an index: uint8, a view of the mapped chunk."""
        place = index
        if self._every_date:
            assert self._starts is not None
            place = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = place - self._first_place[chunk_index]
        try:
            if self._chunk[0] != chunk_index:
                self._wait_until_chunk_ready(chunk_index, chunk_filepath, filesize_bytes)
                # A map outlives its file, should another process evict the chunk from the cache.
                self._chunk = (chunk_index, np.memmap(chunk_filepath, np.uint8, mode="r"))
            chunk = self._chunk[1]
            # A chunk is the number of its items, their N + 1 offsets (all uint32), their bytes.
            first, last = chunk[4 + 4 * row : 12 + 4 * row].view("<u4")
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: a file cut short
            # The loader's processes would wrap an exception in their traceback: send it as data.
            reason = str(error).partition("\n")[0]
            return index, f"{Path(chunk_filepath).name} cannot be read ({reason})"
        return index, chunk[first:last]

    def encode_data(
        self, data: list[bytes], sizes: list[int], flattened: list[Any]
    ) -> tuple[bytes, None]:
        """Store the bytes of an item as they are."""
        return data[0], None

    def pre_load_chunk(self, chunk_index: int, chunk_filepath: str) -> None:
        """Do nothing: a chunk is mapped when it is needed."""

    def delete(self, chunk_index: int, chunk_filepath: str) -> None:
        """Evict a chunk from the cache; LitData asks for it only where it has downloaded one."""
        Path(chunk_filepath).unlink(missing_ok=True)

    def close(self, chunk_index: int) -> None:
        """Let go of the last chunk."""
        self._chunk = (-1, np.empty(0, np.uint8))
