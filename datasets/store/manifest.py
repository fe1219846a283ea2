"""The manifest of a packed store: what is in it, and how its files are laid out."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.seco.patches import check_quantiles
from utils.errors import NOT_AS_WRITTEN, UserError
from utils.files import MAX_TABLE_BYTES, read_file

MANIFEST_NAME = "manifest.json"
FORMAT = "packed patches"
FORMAT_VERSION = 1
PICTURE_BANDS = ("R", "G", "B")
UNITS = {"seco": "255 times reflectance, truncated", "pictures": "8-bit picture"}
ZEROS = "holds only zeros"


@dataclass(frozen=True)
class Shard:
    """A file of raw uint8 rows: one row per patch, with the planes of the bands of its group."""

    file: str  # its name in the store
    num_patches: int  # its number of rows
    sha256: str = ""  # empty while the file is written


@dataclass(frozen=True)
class Group:
    """Bands that are stored together; a run that needs none of them does not read their file."""

    bands: tuple[str, ...]  # in the order of their planes in a row
    # One file. Stores that were written before December 2026 cut it into files of at most 4 GB,
    # with the same number of rows in all but the last.
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Flaw:
    """A patch, or one band of it, that could not be read or is all zero; it is stored as zeros."""

    patch: int  # its number
    band: str | None  # None for all bands
    reason: str  # for a person


@dataclass(frozen=True)
class Manifest:
    """Everything about a store except its pixels."""

    kind: Literal["seco", "pictures"]  # bands of Sentinel-2, or red, green and blue
    places: tuple[str, ...]  # a string "place/scene/scene" per place; for pictures their names
    height: int  # of a patch in pixels of 10 m
    width: int  # of a patch in pixels of 10 m
    quantiles: dict[str, tuple[float, float]]  # 2 % and 98 % per SeCo band, where they are known
    groups: tuple[Group, ...]  # red, green and blue, and the other bands
    flaws: tuple[Flaw, ...] = ()  # of the source, sorted by patch

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
    """Return the groups of a new store, in a fixed order, each with one file without a hash.

    Args:
        bands: Names of the bands.
        num_patches: Number of rows of each file.
    """
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
        content = json.loads(read_file(path, MAX_TABLE_BYTES))
        head = (content["format"], content["format_version"])
        if head != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"format {head}, this program reads {(FORMAT, FORMAT_VERSION)}")
        return _parse(content)
    except NOT_AS_WRITTEN as error:
        raise UserError(
            f"{path} is damaged or of another version ({error}): pack the data again with "
            "datasets/seco_packed.py"
        ) from error


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
    bands, places, num_patches = manifest.bands, manifest.places, manifest.num_patches
    is_seco = manifest.kind == "seco"
    planned = zip(plan_groups(bands, num_patches), manifest.groups, strict=True)
    is_right = (
        manifest.kind in UNITS
        and set(bands) <= set(ALL_BANDS if is_seco else PICTURE_BANDS)
        and num_patches > 0 < len(bands)
        and all(isinstance(place, str) and ("/" in place or not is_seco) for place in places)
        and all(type(px) is int and 0 < px <= 2**16 for px in (manifest.height, manifest.width))
        and all(
            type(flaw.patch) is int
            and 0 <= flaw.patch < num_patches
            and flaw.band in (None, *bands)
            and isinstance(flaw.reason, str)
            for flaw in manifest.flaws
        )
        and all(
            group == Group(plan.bands, _cut(plan.shards[0], group.shards))
            for plan, group in planned
        )
    )
    if not is_right:
        raise ValueError("no packing writes it so")
    return manifest


def _cut(whole: Shard, found: Sequence[Shard]) -> tuple[Shard, ...]:
    """Plan the files of a group that are found: one, or equal parts and a rest, with hashes."""
    rows = found[0].num_patches
    if not all(re.fullmatch("[0-9a-f]{64}", shard.sha256) for shard in found):
        raise ValueError("wrong hashes")
    return tuple(
        Shard(
            whole.file.replace("00000", f"{part:05}"),
            min(rows, whole.num_patches - start),
            found[part].sha256,
        )
        for part, start in enumerate(range(0, whole.num_patches, rows))
    )
