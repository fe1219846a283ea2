"""The manifest of a packed store: what is in it, and how its files are laid out."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.seco.patches import check_quantiles
from utils.errors import UserError

MANIFEST_NAME = "manifest.json"
FORMAT = "packed patches"
FORMAT_VERSION = 1
PICTURE_BANDS = ("R", "G", "B")
UNITS = {"seco": "255 times reflectance, truncated", "pictures": "8-bit picture"}
ZEROS = "holds only zeros"


@dataclass(frozen=True)
class Shard:
    """A file of raw uint8 rows: one row per patch, with the planes of the bands of its group.

    Attributes:
        file: File name in the store.
        num_patches: Number of rows.
        sha256: Hash of the content; empty while the file is written.
    """

    file: str
    num_patches: int
    sha256: str = ""


@dataclass(frozen=True)
class Group:
    """Bands that are stored together; a run that needs none of them does not read their file.

    Attributes:
        bands: Bands in the order of their planes in a row.
        shards: The one file of the group. Stores that were written before December 2026 cut it into
            files of at most 4 GB, with the same number of rows in all but the last.
    """

    bands: tuple[str, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Flaw:
    """A patch, or one band of it, that could not be read or is all zero; it is stored as zeros."""

    patch: int
    band: str | None
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a store except its pixels.

    Attributes:
        kind: "seco" or "pictures".
        places: One string "place/scene/scene" per place; for pictures their names.
        height: Height of a patch in pixels of 10 m.
        width: Width of a patch in pixels of 10 m.
        quantiles: 2 % and 98 % quantiles per band of SeCo patches, as far as they are known.
        groups: Red, green and blue, and the other bands.
        flaws: Flaws of the source, sorted by patch.
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
        """Number of patches, which is the number of rows of each group."""
        if self.kind == "pictures":
            return len(self.places)
        return sum(place.count("/") for place in self.places)

    def row_bytes(self, group: Group) -> int:
        """Return the size of a patch in the file of a group."""
        return len(group.bands) * self.height * self.width

    def files(self, folder: Path) -> list[tuple[Path, int]]:
        """Return path and size of every file of rows."""
        return [
            (folder / shard.file, shard.num_patches * self.row_bytes(group))
            for group in self.groups
            for shard in group.shards
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain builtins."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "unit": UNITS[self.kind]}
        return head | asdict(self)


def plan_groups(bands: Sequence[str], num_patches: int) -> tuple[Group, ...]:
    """Return the groups of a new store, in a fixed order, each with one file without a hash."""
    rgb = RGB_BANDS if set(bands) <= set(ALL_BANDS) else PICTURE_BANDS
    split = {
        "rgb": tuple(band for band in rgb if band in bands),
        "other": tuple(band for band in ALL_BANDS if band in bands and band not in rgb),
    }
    return tuple(
        Group(members, (Shard(f"{name}-00000.u8", num_patches),))
        for name, members in split.items()
        if members
    )


def read_manifest(root: Path) -> Manifest:
    """Read and check the manifest of a store, which may come from a stranger.

    Args:
        root: Folder of the store.

    Raises:
        UserError: There is no manifest, it has another format, or no packing writes such a one.
    """
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise UserError(f"{root} is not a packed store: it has no {MANIFEST_NAME}")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        version = content["format_version"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the manifest of a packed store: pack it again") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            "pack the data again, or use the program that packed it"
        )
    try:
        return _parse(content)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error}): pack the data again") from error


def _parse(content: dict[str, Any]) -> Manifest:
    """Build a manifest and refuse one that no packing writes; no file name leads out of a store."""
    manifest = Manifest(
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
    known = {"seco": ALL_BANDS, "pictures": PICTURE_BANDS}[manifest.kind]
    bands, num_patches = manifest.bands, manifest.num_patches
    _require(set(bands) <= set(known), "bands")
    _require(all(isinstance(place, str) for place in manifest.places), "places")
    _require(manifest.kind == "pictures" or all("/" in place for place in manifest.places), "dates")
    for size in (manifest.height, manifest.width):
        _require(type(size) is int and 0 < size <= 2**16, "size")
    _require(num_patches > 0 and len(bands) > 0, "number of patches")
    for group, planned in zip(manifest.groups, plan_groups(bands, num_patches), strict=True):
        _require(group.bands == planned.bands, "bands")
        _check_shards(group.shards, planned.shards[0])
    for flaw in manifest.flaws:
        _require(type(flaw.patch) is int and 0 <= flaw.patch < num_patches, "flaws")
        _require(flaw.band in (None, *bands) and isinstance(flaw.reason, str), "flaws")
    return manifest


def _check_shards(shards: tuple[Shard, ...], whole: Shard) -> None:
    """Refuse files that are not the planned one, or that one cut into equal parts and a rest."""
    rows = shards[0].num_patches
    starts = range(0, whole.num_patches, rows)
    expected = tuple(
        Shard(whole.file.replace("00000", f"{part:05}"), min(rows, whole.num_patches - start))
        for part, start in enumerate(starts)
    )
    _require(tuple(replace(shard, sha256="") for shard in shards) == expected, "files")
    _require(all(re.fullmatch(r"[0-9a-f]{64}", shard.sha256) for shard in shards), "hashes")


def _require(is_right: bool, what: str) -> None:
    if not is_right:
        raise ValueError(f"wrong {what}")
