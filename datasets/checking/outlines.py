"""Where files are on the ground, as their georeferences say, and which are elsewhere."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from datasets.checking.problems import PLACE, Problem
from datasets.geotiff.plain import read_georeference

# Tags of GeoTIFF (OGC 19-008r4, annexes B and C), and its keys of a projected and geographic CRS.
_SCALE, _TIEPOINT, _KEYS = 33550, 33922, 34735
_CRS_KEYS = (3072, 2048)


class Outline(NamedTuple):
    """Where a file is on the ground.

    Args:
        crs: EPSG code; 32767 for a user's own.
        left: Coordinate of the left edge.
        top: Coordinate of the upper edge.
        width: Width of the whole image in units of the coordinates.
        height: Its height.
    """

    crs: int
    left: float
    top: float
    width: float
    height: float


def read_outline(data: bytes, shape: tuple[int, ...]) -> Outline | None:
    """Read the georeference of a GeoTIFF without GDAL; None if it has none, or an unusual one.

    Args:
        data: Content of the file.
        shape: Shape of the image, height and width last.
    """
    found = {tag: values for tag, (_, values) in read_georeference(data).items()}
    try:
        (across, down, *_), (column, row, _, x, y, *_) = found[_SCALE], found[_TIEPOINT]
        keys = dict(zip(found[_KEYS][4::4], found[_KEYS][7::4], strict=True))
        crs = next(int(keys[key]) for key in _CRS_KEYS if key in keys)
        left, top = x - column * across, y + row * down
    except (LookupError, ValueError, StopIteration):
        return None
    height, width = shape[-2:]
    return Outline(crs, left, top, width * across, height * down)


def hash_place(*place: object) -> int:
    """Hash a place on the ground to 64 bits."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest())


def check_outlines(
    outlines: Mapping[str, Outline | None], tolerance: float, where: str
) -> list[Problem]:
    """Find files whose outline differs from that of most files of a place.

    Args:
        outlines: Outline of each file; None of one without a georeference.
        tolerance: Largest distance of corners, as a share of the side.
        where: The place, for the message.
    """
    known = {name: outline for name, outline in outlines.items() if outline}
    if 2 * len(known) <= len(outlines):
        return []
    systems = [outline.crs for outline in known.values()]
    usual = max(sorted(set(systems)), key=systems.count)
    median = np.median([outline[1:] for outline in known.values() if outline.crs == usual], axis=0)
    limit = tolerance * float(median[2:].max())
    what = f"is not at the place of the other files of {where}"
    return [
        Problem(PLACE, name, what)
        for name, outline in outlines.items()
        if outline is None or outline.crs != usual or not _is_near(outline, median, limit)
    ]


def _is_near(outline: Outline, median: np.ndarray, limit: float) -> bool:
    corners = np.array(
        [outline.left, outline.top, outline.left + outline.width, outline.top - outline.height]
    )
    wanted = np.array([*median[:2], median[0] + median[2], median[1] - median[3]])
    return bool((np.abs(corners - wanted) <= limit).all())
