"""What lies beside the chunks of a LitData set: our manifest, and LitData's index of the chunks.

Both may come from a stranger, and are checked before LitData sees anything of them.
"""

import json
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import address
from utils.input_spec import InputSpec

MANIFEST_NAME = "places.json"
INDEX_NAME = "index.json"  # LitData's
FORMAT = "places for LitData"
FORMAT_VERSION = 1
BUCKETS = ("s3://", "gs://")
# What LitData notes of items that ``PlaceLoader`` has written.
ITEM_FORMAT = {"item_loader": "PlaceLoader", "data_format": ["bytes"], "compression": None}
_MAX_DATES = 2**20  # of a place
# What parsing raises for any JSON that is none of ours, and for what is no JSON.
_NOT_AS_WRITTEN = (
    *(ValueError, KeyError, TypeError, AttributeError),
    *(IndexError, OverflowError, RecursionError),
)
_ATTEMPTS = 4  # LitData's own 1000 would hide a wrong address for hours


def is_litdata(data_dir: Path) -> bool:
    """Tell a bucket, or a folder of LitData chunks, from everything else."""
    return "://" in address(data_dir) or (data_dir / INDEX_NAME).is_file()


@dataclass(frozen=True)
class PlacesManifest:
    """Everything about the patches but their pixels.

    Attributes:
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        patch_shape: Bands C, height and width.
        input_spec: Bands, stretch and normalisation of the patches.
        bad: Name and reason of each patch that could not be read; zeros stand in its place.
    """

    starts: np.ndarray
    patch_shape: tuple[int, int, int]
    input_spec: InputSpec
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)

    def stand_ins(self, place: int) -> int:
        """Return how many places after this one may have to stand in for it.

        A sample with a bad patch is replaced by that of the next place, as everywhere. The places
        up to the first without bad patches, after the last comes the first, are therefore stored
        with this one: its chunk is all that a stream has at hand.
        """
        num_places = len(self.starts) - 1
        for offset in range(num_places):
            here = (place + offset) % num_places
            if self.bad.keys().isdisjoint(range(self.starts[here], self.starts[here + 1])):
                return offset
        return num_places - 1

    def item_patches(self, place: int) -> int:
        """Return the number of patches that are stored with a place."""
        num_places = len(self.starts) - 1
        stored = (np.arange(place, place + self.stand_ins(place) + 1)) % num_places
        return int((self.starts[stored + 1] - self.starts[stored]).sum())

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


def parse_manifest(text: bytes, where: str) -> PlacesManifest:
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
            raise ValueError("dates_per_place is no list of numbers")
        if counts.min() < 1 or counts.max() > _MAX_DATES:
            raise ValueError(f"dates_per_place are from 1 to {_MAX_DATES}")
        starts = np.concatenate([[0], counts.cumsum()])
        if len(spec.bands) != bands:
            raise ValueError(f"{len(spec.bands)} names of {bands} bands")
        if not all(type(patch) is int and 0 <= patch < starts[-1] for patch in bad):
            raise ValueError("bad_patches that are not there")
    except _NOT_AS_WRITTEN as error:
        raise UserError(f"{where} is damaged ({error}): write the set again") from error
    return PlacesManifest(starts, (bands, height, width), spec, bad)


def check_index(text: bytes, num_places: int, where: str) -> None:
    """Refuse an index that LitData would open, but that none of our sets has.

    Its items could be pickles, which run any code when they are read, and its names of chunks could
    lead out of the cache.
    """
    try:
        index = json.loads(text)
        config, chunks = index["config"], index["chunks"]
        declared = {name: config.get(name) for name in ITEM_FORMAT}
        if declared != ITEM_FORMAT or config.get("encryption") is not None:
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


def require_litdata() -> None:
    """Say how to install LitData where it is missing."""
    if find_spec("litdata") is None:
        raise UserError("sets of LitData chunks need LitData: pip install litdata")


def fetch(root: str, name: str) -> bytes:
    """Read a small file of a set, from a folder or a bucket."""
    if "://" not in root:
        path = Path(root) / name
        if not path.is_file():
            raise UserError(_no_set(root, name))
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
    except Exception as error:  # of whatever library talks to this kind of bucket
        reason = str(error).partition("\n")[0]
        if "404" in reason:
            raise UserError(_no_set(root, name)) from error
        raise UserError(
            f"{root}/{name} cannot be read ({reason}): check the address, the credentials and, "
            "if it is not of Amazon or Google, AWS_ENDPOINT_URL"
        ) from error


def storage_options(root: str) -> dict[str, Any]:
    """Return LitData's options for a bucket: give up soon where nobody answers."""
    if not root.startswith("s3://"):
        return {}
    from botocore.config import Config

    return {"config": Config(connect_timeout=10, retries={"total_max_attempts": _ATTEMPTS})}


def _no_set(root: str, name: str) -> str:
    return (
        f"{root} has no {name}: check the address, or write a set there with "
        "datasets/seco_packed.py --format litdata"
    )


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a number from 1 on")
    return value
