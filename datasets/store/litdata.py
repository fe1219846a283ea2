"""A set of patches in LitData chunks, in a folder or in object storage.

An item of a chunk is the bytes of a place with all its dates, as raw uint8 patches: nothing in it
is deserialised, so that no file from a stranger can run code. Our manifest and LitData's index of
the chunks may come from a stranger too, and are checked before LitData reads them.

A sample with a bad patch is replaced by that of the next place, as with every source. A stream has
only the place at hand: an item also holds the following places, up to the first one without bad
patches. After the last place comes the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from datasets.seco.bad_patches import BadPatchError
from utils.errors import UserError
from utils.files import address
from utils.input_spec import InputSpec

MANIFEST_NAME = "places.json"
INDEX_NAME = "index.json"  # LitData's
FORMAT = "places for LitData"
FORMAT_VERSION = 1
BUCKETS = ("s3://", "gs://")
# What LitData notes of items that ``litdata_writer.py`` has written.
_ITEM_FORMAT = {
    "item_loader": "PlaceLoader",
    "data_format": ["bytes"],
    "compression": None,
    "encryption": None,
}
_MAX_DATES = 2**20  # of a place
# Exceptions of parsing JSON that ``write_litdata`` has not written.
_NOT_AS_WRITTEN = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_ATTEMPTS = 4  # LitData's own 1000 would hide a wrong address for hours


@dataclass(frozen=True)
class PlacesManifest:
    """Everything about the patches except their pixels.

    Attributes:
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        patch_shape: Bands C, height and width.
        input_spec: Bands, stretch and normalisation of the patches.
        bad: Name and reason of each patch that could not be read; it is stored as zeros.
    """

    starts: np.ndarray
    patch_shape: tuple[int, int, int]
    input_spec: InputSpec
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)

    def item_patches(self, place: int) -> int:
        """Return the number of patches that are stored with a place."""
        num_places, count = len(self.starts) - 1, 0
        for here in (np.arange(num_places) + place) % num_places:
            patches = range(self.starts[here], self.starts[here + 1])
            count += len(patches)
            if self.bad.keys().isdisjoint(patches):
                break
        return count

    def to_json(self) -> dict[str, Any]:
        """Return plain builtins."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "dates_per_place": np.diff(self.starts).tolist(),
            "patch_shape": list(self.patch_shape),
            "input_spec": self.input_spec.to_dict(),
            "bad_patches": [[patch, *why] for patch, why in sorted(self.bad.items())],
        }


class StreamedPlaces:
    """The patches of a set in chunks; a ``PatchSource`` of the place at hand.

    Args:
        data_dir: Bucket with prefix (``s3://``, ``gs://``), or folder.

    Raises:
        UserError: There is no set, it is damaged, or another program wrote it.
    """

    def __init__(self, data_dir: Path) -> None:
        require_litdata()
        self.root = data_dir
        self.address = address(data_dir)
        text = _fetch(self.address, MANIFEST_NAME)
        self.manifest = _parse_manifest(text, f"{self.address}/{MANIFEST_NAME}")
        self.starts = self.manifest.starts
        self.patch_shape = self.manifest.patch_shape
        self.input_spec = self.manifest.input_spec
        self.bands = self.input_spec.bands
        self.index = _fetch(self.address, INDEX_NAME)
        check_index(self.index, len(self.starts) - 1, f"{self.address}/{INDEX_NAME}")
        self._first = 0  # patch at hand
        self._at_hand = np.empty((0, *self.patch_shape), np.uint8)

    def check_bands(self, bands: Sequence[str]) -> None:
        """Refuse other bands than those of the set, or another order: chunks come as a whole."""
        if tuple(bands) != self.bands:
            raise UserError(
                f"{self.address} holds the bands {' '.join(self.bands)}, not {' '.join(bands)}: "
                "change --bands, or write another set"
            )

    def name(self, patch: int) -> str:
        """Return "place/date" in numbers: the set does not keep the names of the source."""
        place = self.place_of(patch)
        return f"{place}/{patch - self.starts[place]}"

    def place_of(self, patch: int) -> int:
        """Return the place that a patch belongs to."""
        return int(np.searchsorted(self.starts, patch, side="right")) - 1

    def hold(self, place: int, stored: np.ndarray) -> None:
        """Make a place the one at hand.

        Args:
            place: Number of the place.
            stored: Its item, uint8, one dimension.
        """
        expected = self.manifest.item_patches(place) * int(np.prod(self.patch_shape))
        if len(stored) != expected:
            raise UserError(
                f"{self.address} has {len(stored)} instead of {expected} bytes for place {place}: "
                "it is damaged, copy or write it again"
            )
        self._first = int(self.starts[place])
        self._at_hand = stored.reshape(-1, *self.patch_shape)

    def read(self, patch: int) -> np.ndarray:
        """Return a patch of the place at hand, or of one that is stored with it."""
        if patch in self.manifest.bad:
            raise BadPatchError(*self.manifest.bad[patch])
        return self._at_hand[(patch - self._first) % int(self.starts[-1])]


def is_litdata(data_dir: Path) -> bool:
    """Return whether a path is a bucket or a folder of LitData chunks."""
    return "://" in address(data_dir) or (data_dir / INDEX_NAME).is_file()


def _parse_manifest(text: bytes, where: str) -> PlacesManifest:
    """Read what ``PlacesManifest.to_json`` gave; anything else is a ``UserError``."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError("another format")
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{where} has format version {version}, this program reads {FORMAT_VERSION}: "
                "write the set again, or use the program that wrote it"
            )
        counts = np.array(content["dates_per_place"])
        bands, height, width = (_count(size) for size in content["patch_shape"])
        spec = InputSpec.from_dict(content["input_spec"])
        bad = {patch: (str(name), str(reason)) for patch, name, reason in content["bad_patches"]}
        if counts.ndim != 1 or counts.dtype != np.int64 or not len(counts):
            raise ValueError("dates_per_place is not a list of numbers")
        if counts.min() < 1 or counts.max() > _MAX_DATES:
            raise ValueError(f"dates_per_place are from 1 to {_MAX_DATES}")
        starts = np.concatenate([[0], counts.cumsum()])
        if len(spec.bands) != bands:
            raise ValueError(f"{len(spec.bands)} names of {bands} bands")
        if not all(type(patch) is int and 0 <= patch < starts[-1] for patch in bad):
            raise ValueError("bad_patches that do not exist")
    except _NOT_AS_WRITTEN as error:
        raise UserError(f"{where} is damaged ({error}): write the set again") from error
    return PlacesManifest(starts, (bands, height, width), spec, bad)


def check_index(text: bytes, num_places: int, where: str) -> None:
    """Refuse an index that LitData would open, but that none of our sets has.

    Its items could be pickles, which run any code when they are read, and its file names could lead
    out of the cache.
    """
    try:
        index = json.loads(text)
        config, chunks = index["config"], index["chunks"]
        declared = {name: config.get(name) for name in _ITEM_FORMAT}
        if declared != _ITEM_FORMAT:
            raise UserError(
                f"{where} declares items of the format {config.get('data_format')}, which could "
                "run code when they are read: only sets written by datasets/seco_packed.py "
                "--format litdata are streamed"
            )
        if json.loads(config["data_spec"])[1]["children_spec"]:
            raise ValueError("items of several parts")
        for chunk in chunks:
            _count(chunk["chunk_bytes"])
            if not re.fullmatch(r"chunk-\d+-\d+\.bin", chunk["filename"]):
                raise ValueError(f"file {chunk['filename']!r}")
        if sum(_count(chunk["chunk_size"]) for chunk in chunks) != num_places:
            raise ValueError(f"its chunks do not hold the {num_places} places")
    except _NOT_AS_WRITTEN as error:
        raise UserError(f"{where} is damaged ({error}): write the set again") from error


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a number from 1 on")
    return value


def require_litdata() -> None:
    """Say how to install LitData if it is missing."""
    if find_spec("litdata") is None:
        raise UserError("sets of LitData chunks need LitData: pip install litdata")


def _fetch(root: str, name: str) -> bytes:
    """Read a small file of a set, from a folder or a bucket."""
    missing = (
        f"{root} has no {name}: check the address, or write a set there with "
        "datasets/seco_packed.py --format litdata"
    )
    if "://" not in root:
        path = Path(root) / name
        if not path.is_file():
            raise UserError(missing)
        return path.read_bytes()
    if not root.startswith(BUCKETS):
        raise UserError(f"{root} is not streamed: --data_dir takes {' and '.join(BUCKETS)} buckets")
    from litdata.streaming.downloader import get_downloader  # optional

    try:
        file = BytesIO()
        downloader = get_downloader(root, "", [], storage_options(root))
        downloader.download_fileobj(f"{root}/{name}", file)
        return file.getvalue()
    except ModuleNotFoundError as error:
        package = "google-cloud-storage" if root.startswith("gs://") else str(error)
        raise UserError(f"{root} needs one more package: pip install {package}") from error
    except Exception as error:  # each kind of bucket has a library with exceptions of its own
        reason = str(error).partition("\n")[0]
        if "404" in reason:
            raise UserError(missing) from error
        raise UserError(
            f"{root}/{name} cannot be read ({reason}): check the address, the credentials and, "
            "for a bucket that is not of Amazon or Google, AWS_ENDPOINT_URL"
        ) from error


def storage_options(root: str) -> dict[str, Any]:
    """Return LitData's options for a bucket: stop soon if there is no answer."""
    if not root.startswith("s3://"):
        return {}
    from botocore.config import Config

    return {"config": Config(connect_timeout=10, retries={"total_max_attempts": _ATTEMPTS})}
