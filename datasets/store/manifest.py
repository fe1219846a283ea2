"""The manifest of a packed store: what is in it, and how its shards are laid out."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.seco.patches import check_quantiles
from utils.errors import UserError

MANIFEST_NAME = "manifest.json"
FORMAT = "packed patches"
FORMAT_VERSION = 1
MAX_SHARD_BYTES = 4 * 10**9
PICTURE_BANDS = ("R", "G", "B")
UNITS = {"seco": "255 times reflectance, truncated", "pictures": "8-bit picture"}
ZEROS = "holds only zeros"


@dataclass(frozen=True)
class Shard:
    """A file of raw uint8 rows, one per patch, each of the planes of its group.

    Attributes:
        file: Its name in the store.
        num_patches: Its rows.
        sha256: Hash of its bytes, empty while it is written.
    """

    file: str
    num_patches: int
    sha256: str = ""


@dataclass(frozen=True)
class Group:
    """Bands that are stored together; those not asked for lie in other files and cost nothing."""

    bands: tuple[str, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Flaw:
    """A patch, or a band of it, that could not be read or is zero; zeros stand in its place."""

    patch: int
    band: str | None
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a store but its pixels.

    Attributes:
        kind: "seco" or "pictures".
        places: Per place "place/scene/scene"; of pictures their names.
        height: Pixels of 10 m.
        width: Pixels of 10 m.
        quantiles: 2 % and 98 % quantiles per band of SeCo patches, as far as they are known.
        groups: Red, green and blue, and the other bands.
        flaws: What the source lacked, sorted.
    """

    kind: Literal["seco", "pictures"]
    places: tuple[str, ...]
    height: int
    width: int
    quantiles: dict[str, tuple[float, float]]
    groups: tuple[Group, ...]
    flaws: tuple[Flaw, ...] = ()

    @property
    def bands(self) -> tuple[str, ...]:
        """All bands, in the order of the groups."""
        return tuple(band for group in self.groups for band in group.bands)

    @property
    def num_patches(self) -> int:
        """Number of patches, which is that of the rows of each group."""
        if self.kind == "pictures":
            return len(self.places)
        return sum(place.count("/") for place in self.places)

    def row_bytes(self, group: Group) -> int:
        """Return the size of a patch in a group's shards."""
        return len(group.bands) * self.height * self.width

    def to_json(self) -> dict[str, Any]:
        """Return plain builtins."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "unit": UNITS[self.kind]}
        return head | asdict(self)


def plan_groups(bands: tuple[str, ...], num_patches: int, pixels: int) -> tuple[Group, ...]:
    """Lay the shards out: groups in a fixed order, each cut into files of at most 4 GB."""
    rgb = RGB_BANDS if set(bands) <= set(ALL_BANDS) else PICTURE_BANDS
    split = {
        "rgb": tuple(band for band in rgb if band in bands),
        "other": tuple(band for band in ALL_BANDS if band in bands and band not in rgb),
    }
    groups = []
    for name, members in split.items():
        if members:
            rows = max(1, MAX_SHARD_BYTES // (len(members) * pixels))
            starts = range(0, num_patches, rows)
            shards = (
                Shard(f"{name}-{number:05}.u8", min(rows, num_patches - start))
                for number, start in enumerate(starts)
            )
            groups.append(Group(members, tuple(shards)))
    return tuple(groups)


def read_manifest(root: Path) -> Manifest:
    """Read and check the manifest of a store, which may come from anyone."""
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise UserError(f"{root} is no packed store: it has no {MANIFEST_NAME}")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError("no store")
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the manifest of a packed store: pack it again") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            "pack the data again, or use the program that packed it"
        )
    try:
        manifest = _parse(content)
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error}): pack the data again") from error
    return manifest


def _parse(content: dict[str, Any]) -> Manifest:
    return Manifest(
        kind=content["kind"],
        places=tuple(content["places"]),
        height=content["height"],
        width=content["width"],
        quantiles=check_quantiles(content["quantiles"]),
        groups=tuple(
            Group(tuple(group["bands"]), tuple(Shard(**shard) for shard in group["shards"]))
            for group in content["groups"]
        ),
        flaws=tuple(Flaw(**flaw) for flaw in content["flaws"]),
    )


def _check(manifest: Manifest) -> None:
    """Refuse what ``plan_groups`` would not have made; no name leads out of the store."""
    if manifest.kind not in UNITS:
        raise ValueError(f"kind {manifest.kind}")
    if not manifest.places or not all(isinstance(place, str) for place in manifest.places):
        raise ValueError("places are strings")
    if manifest.kind == "seco" and not all("/" in place for place in manifest.places):
        raise ValueError("places have dates")
    sizes = (manifest.height, manifest.width)
    if not all(type(size) is int and 0 < size <= 2**16 for size in sizes):
        raise ValueError(f"size {sizes}")
    known = ALL_BANDS if manifest.kind == "seco" else PICTURE_BANDS
    bands = manifest.bands
    if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(known):
        raise ValueError(f"bands {bands}")
    for group in manifest.groups:
        _check_shards(group, manifest.num_patches)
    for flaw in manifest.flaws:
        if type(flaw.patch) is not int or not 0 <= flaw.patch < manifest.num_patches:
            raise ValueError(f"patch {flaw.patch}")
        if flaw.band not in (None, *bands) or not isinstance(flaw.reason, str):
            raise ValueError(f"flaw of patch {flaw.patch}")


def _check_shards(group: Group, num_patches: int) -> None:
    counts = [shard.num_patches for shard in group.shards]
    if not all(type(count) is int and count > 0 for count in counts) or sum(counts) != num_patches:
        raise ValueError("shards do not hold all patches")
    if len(set(counts[:-1])) > 1 or counts[-1] > counts[0]:
        raise ValueError("shards differ in size")
    for shard in group.shards:
        if not re.fullmatch(r"(rgb|other)-\d{5,9}\.u8", shard.file):
            raise ValueError(f"file {shard.file!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", shard.sha256):
            raise ValueError(f"hash of {shard.file}")
