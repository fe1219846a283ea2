"""A set of patches in LitData chunks, in a folder or in object storage.

An item of a chunk is the bytes of a place with all its dates, as raw uint8 patches: nothing in it
is deserialised, so that no file from a stranger can run code. Our manifest and LitData's index of
the chunks may come from a stranger too, and are checked before LitData reads them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from datasets.seco.bad_patches import BadPatchError
from utils.errors import NOT_AS_WRITTEN, UserError
from utils.files import MAX_TABLE_BYTES, address, read_file
from utils.input_spec import InputSpec

MANIFEST_NAME = "places.json"
INDEX_NAME = "index.json"  # LitData's
_HEAD = {"format": "places for LitData", "format_version": 1}
# What LitData notes of items that ``litdata_writer.py`` has written.
_ITEM_FORMAT = {
    "item_loader": "PlaceLoader",
    "data_format": ["bytes"],
    "compression": None,
    "encryption": None,
}
_ITEM_SPEC = [1, {"type": None, "context": None, "children_spec": []}]  # of one part
_MAX_DATES = 2**20  # of a place
_ATTEMPTS = 4  # LitData's own 1000 would hide a wrong address for hours


@dataclass(frozen=True)
class PlacesManifest:
    """Everything about the patches except their pixels."""

    starts: np.ndarray  # number of the first patch of each place, and of all: int64, (P + 1,)
    patch_shape: tuple[int, int, int]  # bands C, height and width
    input_spec: InputSpec  # bands, stretch and normalisation
    # Name and reason of each patch that could not be read; it is stored as zeros.
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain builtins."""
        return _HEAD | {
            "dates_per_place": np.diff(self.starts).tolist(),
            "patch_shape": list(self.patch_shape),
            "input_spec": self.input_spec.to_dict(),
            "bad_patches": [[patch, *why] for patch, why in sorted(self.bad.items())],
        }


class StreamedPlaces:
    """The patches of a set in chunks; a ``PatchSource``.

    Args:
        data_dir: Bucket with prefix (``s3://``, ``gs://``), or folder.

    Raises:
        UserError: There is no set, it is damaged, or another program wrote it.
    """

    def __init__(self, data_dir: Path) -> None:
        require_litdata()
        self.root, self.address = data_dir, address(data_dir)
        self._index = _fetch(self.address, INDEX_NAME)
        try:
            self.manifest = _parse_manifest(_fetch(self.address, MANIFEST_NAME))
            places = np.cumsum([0, *_read_index(self._index)])  # the first of each chunk
            if places[-1] != len(self.manifest.starts) - 1:
                raise ValueError("another number of places")
        except NOT_AS_WRITTEN as error:
            raise UserError(
                f"{self.address} holds no chunks of datasets/seco_packed.py --format litdata, or "
                f"its {MANIFEST_NAME} or {INDEX_NAME} is damaged ({error}): write the set again"
            ) from error
        for name, what in broken_chunks(self.address, self._index):
            raise UserError(f"{self.address}/{name} {what}: copy the set again, or write it again")
        self._first_places = places
        self.starts = self.manifest.starts
        self.patch_shape = self.manifest.patch_shape
        self.input_spec = self.manifest.input_spec
        self.bands = self.input_spec.bands
        self._stream: tuple[int, Any] = (-1, None)  # a process, and its stream
        self._at_hand: tuple[int, np.ndarray] = (0, np.empty(0))  # the patches from a number on

    def check_bands(self, bands: Sequence[str]) -> None:
        """Refuse other bands than those of the set, or another order: chunks come as a whole."""
        if tuple(bands) != self.bands:
            raise UserError(
                f"{self.address} holds the bands {' '.join(self.bands)}, not {' '.join(bands)}: "
                "change --bands, or write another set"
            )

    def first_samples(self, every_date: bool) -> np.ndarray:
        """Return the first place of each chunk and the end, or patch if every date is a sample."""
        return self.starts[self._first_places] if every_date else self._first_places

    def name(self, patch: int) -> str:
        """Return "place/date" in numbers: the set does not keep the names of the source."""
        place = int(np.searchsorted(self.starts, patch, side="right")) - 1
        return f"{place}/{patch - self.starts[place]}"

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read a patch; arguments as in ``PatchSource.read``."""
        if patch in self.manifest.bad:
            raise BadPatchError(*self.manifest.bad[patch])
        if not 0 <= patch - self._at_hand[0] < len(self._at_hand[1]):
            place = int(np.searchsorted(self.starts, patch, side="right")) - 1
            self._at_hand = (int(self.starts[place]), self._read_place(place))
        pixels = np.empty(self.patch_shape, np.uint8) if out is None else out
        pixels[:] = self._at_hand[1][patch - self._at_hand[0]]
        return pixels

    def _read_place(self, place: int) -> np.ndarray:
        from litdata.streaming.sampler import ChunkedIndex  # optional

        from datasets.store.litdata_loader import open_stream

        if self._stream[0] != os.getpid():
            self._stream = (os.getpid(), open_stream(self.address, self._index))
        chunk = int(np.searchsorted(self._first_places, place, side="right")) - 1
        stored = self._stream[1][ChunkedIndex(place, chunk)]
        patches = range(self.starts[place], self.starts[place + 1])
        expected = len(patches) * int(np.prod(self.patch_shape))
        if not self.manifest.bad.keys().isdisjoint(patches):
            stored = stored[:expected]  # stand-ins follow in sets from before December 2026
        if len(stored) != expected:
            raise UserError(
                f"{self.address} has {len(stored)} instead of {expected} bytes for place {place}: "
                "it is damaged, copy or write it again"
            )
        return stored.reshape(-1, *self.patch_shape)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": (-1, None), "_at_hand": (0, np.empty(0))}


def is_litdata(data_dir: Path) -> bool:
    """Return whether a path is a bucket or a folder of LitData chunks."""
    return "://" in address(data_dir) or (data_dir / INDEX_NAME).is_file()


def _parse_manifest(text: bytes) -> PlacesManifest:
    """Read what ``PlacesManifest.to_json`` gave; raise one of ``NOT_AS_WRITTEN`` for the rest."""
    content = json.loads(text)
    head = {name: content[name] for name in _HEAD}
    counts = np.array(content["dates_per_place"])
    bands, height, width = (_count(size) for size in content["patch_shape"])
    spec = InputSpec.from_dict(content["input_spec"])
    bad = {patch: (str(name), str(reason)) for patch, name, reason in content["bad_patches"]}
    if head != _HEAD or counts.ndim != 1 or counts.dtype != np.int64 or not len(counts):
        raise ValueError(f"{head}, and not {_HEAD}")
    starts = np.concatenate([[0], counts.cumsum()])
    if (
        counts.min() < 1
        or counts.max() > _MAX_DATES
        or len(spec.bands) != bands
        or not all(type(patch) is int and 0 <= patch < starts[-1] for patch in bad)
    ):
        raise ValueError("numbers of dates, bands or bad patches")
    return PlacesManifest(starts, (bands, height, width), spec, bad)


def _read_index(text: bytes) -> list[int]:
    """Return the places of each chunk; raise one of ``NOT_AS_WRITTEN`` for a foreign index.

    Its items could be pickles, which run any code when they are read, and its file names could lead
    out of the cache.
    """
    index = json.loads(text)
    config, chunks = index["config"], index["chunks"]
    is_other = any(config[name] != value for name, value in _ITEM_FORMAT.items())
    if is_other or config.get("compression_level") is not None:
        raise ValueError(f"items of the format {config['data_format']} could run code")
    if json.loads(config["data_spec"]) != _ITEM_SPEC:
        raise ValueError("items of several parts")
    for chunk in chunks:
        _count(chunk["chunk_bytes"])
        if not re.fullmatch(r"chunk-\d+-\d+\.bin", chunk["filename"]):
            raise ValueError(f"file {chunk['filename']!r}")
    return [_count(chunk["chunk_size"]) for chunk in chunks]


def broken_chunks(root: str, index: bytes) -> Iterator[tuple[str, str]]:
    """Yield names and faults of chunks in a folder that are missing or cut off.

    LitData would wait for such a chunk for minutes.

    Args:
        root: Folder; a bucket is not asked.
        index: LitData's index, which has been checked.
    """
    for chunk in json.loads(index)["chunks"] if "://" not in root else ():
        path = Path(root, chunk["filename"])
        found, size = path.stat().st_size if path.is_file() else None, chunk["chunk_bytes"]
        if found is None:
            yield path.name, "is missing"
        elif found < size:
            yield path.name, f"has {found} bytes instead of {size}"


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a number from 1 on")
    return value


def require_litdata() -> None:
    """Say how to install LitData if it is missing.

    Raises:
        UserError: LitData is not installed.
    """
    if find_spec("litdata") is None:
        raise UserError("sets of LitData chunks need LitData: pip install litdata")


def _fetch(root: str, name: str) -> bytes:
    """Read a small file of a set, from a folder or a bucket."""
    if "://" in root and not root.startswith(("s3://", "gs://")):
        raise UserError(f"{root} is not streamed: --data_dir takes s3:// and gs:// buckets")
    try:
        if "://" not in root:
            return read_file(Path(root, name), MAX_TABLE_BYTES)
        from litdata.streaming.downloader import get_downloader  # optional

        file = BytesIO()
        downloader = get_downloader(root, "", [], storage_options(root))
        downloader.download_fileobj(f"{root}/{name}", file)
        return file.getvalue()
    except Exception as error:  # each kind of bucket has a library with exceptions of its own
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{root}/{name} cannot be read ({reason}): write a set there with datasets/"
            "seco_packed.py --format litdata, or check the address; for a bucket also the "
            "credentials, AWS_ENDPOINT_URL if it is not of Amazon, and for gs:// that "
            "google-cloud-storage is installed"
        ) from error


def storage_options(root: str) -> dict[str, Any]:
    """Return LitData's options for a bucket: stop soon if there is no answer."""
    if not root.startswith("s3://"):
        return {}
    from botocore.config import Config

    return {"config": Config(connect_timeout=10, retries={"total_max_attempts": _ATTEMPTS})}
