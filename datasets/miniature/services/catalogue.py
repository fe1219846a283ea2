"""A made-up archive of Sentinel-2: every scene and pixel is a function of place and date.

Granules are MGRS tiles: 109.8 km, one every 100 km, seen every five days. Swath edges cut some;
clouds fill regions, independent of the share of the whole scene; a tenth has no cloud score.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.bands import RESOLUTION_M

Array = NDArray[Any]
TILE_M, STEP_M, GRID_M = 109_800, 100_000, 60
# What the northing of ESA's upper left corners leaves when it is divided by 60; the easting is a
# multiple. It follows from ``TILES``: ULX and ULY of MTD_TL.xml, or corners of ESA's tiling grid
# (S2A_OPER_GIP_TILPAR). Public repositories have 32UPV (hollstein/S2MSI), 32TNM and 53HPV
# (ungarj/s2reader), and 22HBD (stac-utils/stactools, pull request 88).
REMAINDER = {326: 0, 327: 40}
TILES = {
    "31UDQ": (32631, 399_960, 5_500_020),
    "32UPV": (32632, 600_000, 5_500_020),
    "32TNM": (32632, 499_980, 4_700_040),
    "22HBD": (32722, 199_980, 5_900_020),
    "53HMA": (32753, 399_960, 6_100_000),
    "53HPV": (32753, 600_000, 6_000_040),
}
REGION_M = 20_000  # of weather
REVISIT_DAYS = 5
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_NAME = re.compile(r"(\d{8}T\d{6})_\d{8}T\d{6}_T(\d\d)([A-Z])([A-Z])([A-Z])")
_EPOCH = date(2015, 1, 1)
_OFFSETS = date(2022, 1, 25)  # from then on products have an offset, and another baseline


def hashed(*values: Any) -> Array:
    """Mix whole numbers, or arrays of them, into uniform numbers from 0 to 1."""
    with np.errstate(over="ignore"):
        state: Any = np.uint64(0x9E3779B97F4A7C15)
        for value in (0, *values):
            state = state ^ np.asarray(value).astype(np.int64).astype(np.uint64)
            state = state * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray((state >> np.uint64(11)) * 2.0**-53)


@dataclass(frozen=True)
class Granule:
    """One tile on one day."""

    epsg: int  # code of its UTM zone
    column: int  # of the tile, eastwards
    row: int  # of the tile, northwards
    start: datetime  # when it was sensed

    @property
    def left(self) -> int:
        return self.column * STEP_M // GRID_M * GRID_M

    @property
    def top(self) -> int:
        """The line between pixels at the upper edge of the square of 100 km, or the next above."""
        edge, remainder = (self.row + 1) * STEP_M, REMAINDER[self.epsg // 100]
        return edge + (remainder - edge) % GRID_M

    @property
    def bottom(self) -> int:
        return self.top - TILE_M

    @property
    def tile(self) -> str:
        first = _LETTERS[12 * (self.epsg // 100 == 326) + self.row // 24]
        return f"{self.epsg % 100:02d}{first}{_LETTERS[self.column]}{_LETTERS[self.row % 24]}"

    @property
    def name(self) -> str:
        end = self.start + timedelta(seconds=11)
        return f"{self.start:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}_T{self.tile}"

    @property
    def day(self) -> int:
        return (self.start.date() - _EPOCH).days

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.epsg, self.column, self.row, self.day


class Catalogue:
    """The archive, of which a share of the scenes, ``cloudiness``, is too cloudy for a patch."""

    def __init__(self, cloudiness: float = 0.44) -> None:
        self.cloudiness = cloudiness

    def granules(
        self, epsg: int, bounds: tuple[float, float, float, float], first: date, end: date
    ) -> Iterator[Granule]:
        """Yield what covers a part of a rectangle from a day until before another one.

        Args:
            epsg: Code of the UTM zone.
            bounds: Left, bottom, right and top in metres.
            first: First day.
            end: Day after the last one.
        """
        left, bottom, right, top = bounds
        columns = range(max(0, int((left - TILE_M) // STEP_M)), min(24, int(right // STEP_M) + 1))
        beyond = 100 if epsg >= 32700 else 1000  # the equator
        rows = range(max(0, int((bottom - GRID_M) // STEP_M)), int((top + TILE_M) // STEP_M))
        for column, row in product(columns, rows):
            tile = Granule(epsg, column, row, datetime(2015, 1, 1, tzinfo=UTC))
            is_inside = left < tile.left + TILE_M and right > tile.left and row < beyond
            if is_inside and bottom < tile.bottom + TILE_M and top > tile.bottom:
                yield from self._passes(tile, first, end)

    def _passes(self, tile: Granule, first: date, end: date) -> Iterator[Granule]:
        # Tiles of a column are seen by the same pass, at the same second.
        phase = int(hashed(1, tile.epsg, tile.column) * REVISIT_DAYS)
        start = (first - _EPOCH).days
        for day in range(start + (phase - start) % REVISIT_DAYS, (end - _EPOCH).days, REVISIT_DAYS):
            second = int(hashed(2, tile.epsg, tile.column, day) * 3600)
            when = datetime.combine(_EPOCH + timedelta(days=day), datetime.min.time(), UTC)
            when += timedelta(hours=10, seconds=second)
            yield Granule(tile.epsg, tile.column, tile.row, when)

    def find(self, name: str) -> Granule | None:
        """Return the granule of a name, if it is in the archive."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        text, zone, first, column, row = match.groups()
        start = datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        hemisphere, high = divmod(_LETTERS.index(first), 12)
        epsg = (32600 if hemisphere else 32700) + int(zone)
        granule = Granule(epsg, _LETTERS.index(column), 24 * high + _LETTERS.index(row), start)
        there = self._passes(granule, start.date(), start.date() + timedelta(days=1))
        return granule if granule in set(there) else None

    def properties(self, granule: Granule) -> dict[str, Any]:
        """Return what Earth Engine lists for a scene."""
        is_bad = float(hashed(3, *granule.key)) < 0.6 * self.cloudiness
        cloud = float(hashed(4, *granule.key)) * 10
        return {
            "system:index": granule.name,
            "system:time_start": int(granule.start.timestamp() * 1000),
            "CLOUDY_PIXEL_PERCENTAGE": 10 + 9 * cloud if is_bad else cloud,
            "PROCESSING_BASELINE": "04.00" if granule.start.date() >= _OFFSETS else "02.13",
            "MGRS_TILE": granule.tile,
            "SPACECRAFT_NAME": "Sentinel-2A",
            "SENSING_ORBIT_NUMBER": granule.column + 1,
        }

    def has_score(self, granule: Granule) -> bool:
        """Return whether Cloud Score+ has the scene."""
        return float(hashed(5, *granule.key)) >= 0.1

    def is_valid(self, granule: Granule, x: Array, y: Array) -> Array:
        """Return where a scene has data: within the tile, and on its side of the swath's edge.

        Args:
            granule: Scene.
            x: Eastings in metres.
            y: Northings in metres.
        """
        inside = (x >= granule.left) & (x < granule.left + TILE_M)
        inside &= (y >= granule.bottom) & (y < granule.bottom + TILE_M)
        if float(hashed(6, *granule.key)) < 0.1:
            edge = granule.left + TILE_M * float(hashed(7, *granule.key))
            inside &= x + 0.2 * (y - granule.bottom) > edge
        return inside

    def has_data(self, granule: Granule, band: str, x: Array, y: Array) -> Array:
        """Return where a band of a scene has data; tests make holes.

        Args:
            granule: Scene.
            band: Name of the band.
            x: Eastings in metres.
            y: Northings in metres.
        """
        return self.is_valid(granule, x, y)

    def is_cloud(self, granule: Granule, x: Array, y: Array) -> Array:
        """Return where clouds are: they fill regions. Arguments as in ``Catalogue.is_valid``."""
        where = (np.floor(x / REGION_M), np.floor(y / REGION_M))
        return hashed(8, granule.epsg, granule.day, *where) < 0.4 * self.cloudiness

    def values(self, granule: Granule, band: str, x: Array, y: Array) -> Array:
        """Return digital numbers: constant on the band's pixels, 0 without data.

        Arguments as in ``Catalogue.has_data``.
        """
        size, number = RESOLUTION_M[band], list(RESOLUTION_M).index(band)
        column, line = np.floor(x / size), np.floor((y - granule.top) / size)
        row = line + granule.top // size
        noise = hashed(9, number, granule.day, column, row)
        slope = (7 * column + 13 * row) % 1000
        season = 300 * np.sin(2 * np.pi * granule.day / 365.25)
        ground = 600 + 100 * number + slope + season + 60 * noise
        middle = size * (column + 0.5), granule.top + size * (line + 0.5)
        ground = np.where(self.is_cloud(granule, *middle), ground + 5000, ground)
        return np.where(self.has_data(granule, band, *middle), ground, 0).astype(np.uint16)


def pixel_centres(left: float, top: float, width: int, height: int, size: float) -> Any:
    """Return easting and northing of the middle of all pixels, (height, width) each.

    Args:
        left: Easting of the upper left corner in metres.
        top: Northing of that corner.
        width: Columns.
        height: Rows.
        size: Side of a pixel in metres.
    """
    x = left + size * (np.arange(width) + 0.5)
    y = top - size * (np.arange(height) + 0.5)
    return np.meshgrid(x, y)
