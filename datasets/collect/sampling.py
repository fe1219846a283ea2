"""Where and when a data set is collected: a pure function of its seed.

Candidate n of a seed is drawn by a counter-based generator whose bits no version of NumPy changes.
A plan takes the first ones on land in a free cell of a lattice: more places begin with the fewer.
"""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from datasets.collect.scenes import GRID_M, Array
from datasets.collect.utm import false_northing, from_utm, to_utm, utm_epsg, wrapped
from utils.errors import UserError

Sampler = Callable[[Array], tuple[Array, Array]]
IsLand = Callable[[Array, Array], Array]

# Where Sentinel-2 sees the land: ESA's plan of observations.
SOUTH, NORTH = -56, 83
_EARTH_M = 6_371_008.8  # mean radius, IUGG
_LEAST_ROUND, _ROUND = 1 << 8, 1 << 17  # candidates at a time
_PATIENCE = 1 << 20  # candidates which have to bring a twentieth of what is wanted
_MARGIN_M = 10  # a parallel bends by less than that along a patch, where it ends a zone


@dataclass(frozen=True)
class Places:
    """Places as columns of one length."""

    lat: Array  # of the patch's centre in degrees, rounded to 1e-6, float64
    lng: Array  # of the patch's centre, rounded like ``lat``, -180 .. 180, float64
    epsg: Array  # UTM zone of the patch, int32
    left: Array  # easting of its upper left corner in metres, on the lattice of GRID_M, int32
    top: Array  # northing of its upper left corner, the same
    shift_days: Array  # by how many days its windows are shifted back, int32

    def __len__(self) -> int:
        return len(self.lat)

    def __getitem__(self, rows: Array | slice) -> "Places":
        return Places(*(column[rows] for column in vars(self).values()))


def joined(parts: Sequence[Places]) -> Places:
    """Return the places of all parts in their order."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Places(*map(np.concatenate, columns))


def uniforms(seed: int, first: int, count: int) -> Array:
    """Draw four multiples of 2**-53 in [0, 1) for each candidate, float64, shape (count, 4).

    Args:
        seed: Seed of the plan.
        first: Number of the first candidate.
        count: Number of candidates.
    """
    # A step of Philox's counter makes four words: a candidate has a step of its own.
    words = np.random.Philox(key=seed, counter=first).random_raw(4 * count)
    return np.asarray((words >> 11).reshape(count, 4) * 2.0**-53)


def gaussian(cities: Array, std_km: float) -> Sampler:
    """Sample around cities, with the same deviation to the north as to the east in metres.

    Args:
        cities: Latitude and longitude in degrees, shape (C, 2); all are as likely.
        std_km: Standard deviation along either axis.
    """

    def sample(drawn: Array) -> tuple[Array, Array]:
        city = np.radians(cities[(drawn[:, 0] * len(cities)).astype(np.int64)])
        # Box and Muller: the distance and the direction of a normal offset.
        distance = 1000 * std_km / _EARTH_M * np.sqrt(-2 * np.log1p(-drawn[:, 1]))
        north, east = np.cos(2 * np.pi * drawn[:, 2]), np.sin(2 * np.pi * drawn[:, 2])
        sin_lat, cos_lat = np.sin(city[:, 0]), np.cos(city[:, 0])
        sin, cos = np.sin(distance), np.cos(distance)
        lat = np.arcsin(np.clip(sin_lat * cos + cos_lat * sin * north, -1, 1))
        turn = np.arctan2(east * sin, cos_lat * cos - sin_lat * sin * north)
        return np.degrees(lat), wrapped(np.degrees(city[:, 1] + turn))

    return sample


def bounded(west: float, south: float, east: float, north: float) -> Sampler:
    """Sample evenly by area within bounds in degrees; a west above the east crosses 180.

    Args:
        west: Least longitude.
        south: Least latitude.
        east: Largest longitude.
        north: Largest latitude.
    """
    low, high = np.sin(np.radians([south, north]))
    width = east - west if east > west else east - west + 360

    def sample(drawn: Array) -> tuple[Array, Array]:
        lat = np.degrees(np.arcsin(low + (high - low) * drawn[:, 0]))
        return lat, wrapped(west + width * drawn[:, 1])

    return sample


def sample_places(
    seed: int,
    count: int,
    sampler: Sampler,
    *,
    patch_px: int,
    max_shift_days: int,
    is_land: IsLand | None,
) -> Places:
    """Take the first candidates that are on land and overlap none before.

    Patches are cells of a lattice from the origin of each UTM zone, all within their zone.

    Args:
        seed: Seed of the plan, 0 .. 2**64 - 1.
        count: Number of places.
        sampler: Turns uniform numbers of shape (B, 4), but for the last, into latitude and
            longitude in degrees.
        patch_px: Side of a patch in pixels of 10 m, a multiple of 6.
        max_shift_days: Shifts are from 0 to one less.
        is_land: Which latitudes and longitudes are on land; None takes all.

    Raises:
        UserError: The area has too few places.
    """
    taken = np.empty(0, np.int64)
    parts: list[Places] = []
    drawn = recently = since = 0
    while len(taken) < count:
        size = min(max(2 * (count - len(taken)), drawn, _LEAST_ROUND), _ROUND)
        numbers = uniforms(seed, drawn, size)
        cells, places = _distinct_cells(numbers, sampler, patch_px, max_shift_days)
        good = ~np.isin(cells, taken) & within_zone(places, patch_px)
        if is_land is not None:
            good &= is_land(places.lat, places.lng)
        taken = np.concatenate([taken, cells[good]])
        parts.append(places[good])
        drawn, recently, since = drawn + size, recently + len(parts[-1]), since + size
        if since >= _PATIENCE:
            if len(taken) < count and recently <= count // 20:
                raise UserError(
                    f"only {len(taken)} places were found of {count} with their spares: use a "
                    "larger area, or fewer --num_locations or --spares"
                )
            recently = since = 0
    return joined(parts)[:count]


def _distinct_cells(
    drawn: Array, sampler: Sampler, patch_px: int, max_shift_days: int
) -> tuple[Array, Places]:
    """Return a number for each cell of the lattice that candidates hit, and its place.

    The place is that of the first candidate in the cell; the order is that of the candidates.
    """
    side = 10 * patch_px
    lat, lng = sampler(drawn)
    rows = np.flatnonzero((lat > SOUTH) & (lat < NORTH))
    epsg = utm_epsg(lat[rows], lng[rows])
    easting, northing = to_utm(lat[rows], lng[rows], epsg)
    column, line = np.floor(easting / side), np.floor((northing - false_northing(epsg)) / side)
    # A cell is 60 m or more: a column needs 18 bits, a line 19 with its sign, which is negative in
    # the south.
    cells = (epsg << 40) + (line.astype(np.int64) << 20) + column.astype(np.int64)
    first = np.sort(np.unique(cells, return_index=True)[1])
    top = false_northing(epsg[first]) + line[first] * side + side
    places = _on_grid(epsg[first], column[first] * side, top, patch_px)
    places.shift_days[:] = shifts(drawn[rows[first]], max_shift_days)
    return cells[first], places


def _on_grid(epsg: Array, left: Array, top: Array, patch_px: int) -> Places:
    """Make places, without a shift, of the corners of their patches."""
    half = 5 * patch_px
    lat, lng = from_utm(left + half, top - half, epsg)
    small = [column.astype(np.int32) for column in (epsg, left, top, np.zeros(len(epsg)))]
    return Places(np.round(lat, 6), np.round(lng, 6), *small)


def around(lat: Array, lng: Array, patch_px: int) -> Places:
    """Make places, without a shift, of centres in degrees; corners move onto the lattice.

    Args:
        lat: Latitudes, float64, shape (B,).
        lng: Longitudes, shape (B,).
        patch_px: Side of a patch in pixels of 10 m.
    """
    epsg, half = utm_epsg(lat, lng), 5 * patch_px
    easting, northing = to_utm(lat, lng, epsg)
    left = GRID_M * np.round((easting - half) / GRID_M)
    origin = false_northing(epsg)
    top = origin + GRID_M * np.round((northing + half - origin) / GRID_M)
    return _on_grid(epsg, left, top, patch_px)


def shifts(drawn: Array, max_shift_days: int) -> Array:
    """Return the shift in days of candidates, by the last of their uniform numbers.

    Args:
        drawn: Uniform numbers of candidates, shape (B, 4).
        max_shift_days: Shifts are from 0 to one less.
    """
    return np.floor(drawn[:, 3] * max_shift_days).astype(np.int32)


def within_zone(places: Places, patch_px: int) -> Array:
    """Return which patches lie in their UTM zone with all corners, and where Sentinel-2 sees.

    Args:
        places: B places.
        patch_px: Side of a patch in pixels of 10 m.
    """
    near, far = -_MARGIN_M, 10 * patch_px + _MARGIN_M
    x, y = np.array([[near, near, far, far], [-near, -far, -near, -far]])[:, :, None]
    lat, lng = from_utm(places.left + x, places.top + y, places.epsg)  # (4, B)
    good = (utm_epsg(lat, lng) == places.epsg) & (lat > SOUTH) & (lat < NORTH)
    return np.asarray(good.all(0))


def land_mask() -> IsLand:
    """Return a function that separates land, lakes included, from sea: GLOBE, 30 arc seconds.

    The table of global_land_mask is read as bits, 117 MB: importing the package takes 8 times that.

    Raises:
        UserError: global-land-mask is not installed.
    """
    package = find_spec("global_land_mask")
    path = Path(str(package and package.origin)).with_name("globe_combined_mask_compressed.npz")
    try:
        lat_of_row, lng_of_column = (np.load(path)[name] for name in ("lat", "lon"))
        shape = len(lat_of_row), len(lng_of_column)
        is_sea = np.empty((shape[0], shape[1] // 8), np.uint8)
        with zipfile.ZipFile(path) as archive, archive.open("mask.npy") as file:
            np.lib.format.read_magic(file)
            if np.lib.format.read_array_header_1_0(file) != (shape, False, np.dtype(bool)):
                raise ValueError("another table")
            for bits in is_sea:
                bits[:] = np.packbits(np.frombuffer(file.read(shape[1]), bool))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            "the land mask needs global-land-mask: pip install global-land-mask, or give "
            "--no_land_mask"
        ) from error

    def is_land(lat: Array, lng: Array) -> Array:
        row, column = (
            ((np.clip(at, axis.min(), axis.max()) - axis[0]) / (axis[1] - axis[0])).astype(int)
            for at, axis in ((lat, lat_of_row), (lng, lng_of_column))
        )
        return (is_sea[row, column // 8] << (column % 8)) & 128 == 0

    return is_land
