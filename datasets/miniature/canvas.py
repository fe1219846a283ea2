"""The canvas of the miniature Earth: noise, parcels and curves on a grid of 5 m cells."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.miniature.surfaces import Climate, Surface

Array = NDArray[Any]
Rng = np.random.Generator
_MAX_PARCELS = 4096
CELL_M = 5  # two cells per 10 m pixel, so that pixels mix surfaces as real ones do


class Canvas:
    """One place, before any date: which surface each cell has, how rough and how high it is.

    Attributes:
        cells: Side in cells.
        climate: Set when the place is complete.
        surfaces: The surfaces that ``labels`` number.
        labels: Surface of each cell, int, shape (cells, cells).
        texture: Relative brightness of each cell, about -0.5..0.5.
        height: Metres above the plain, for shadows.
        cover: Index of the land cover of each cell in ``COVERS``.
    """

    climate: Climate

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.surfaces: list[Surface] = []
        self.labels = np.zeros((cells, cells), np.intp)
        self.texture = np.zeros((cells, cells), np.float32)
        self.height = np.zeros((cells, cells), np.float32)
        self.cover = np.zeros((cells, cells), np.uint8)

    def add(
        self, rng: Rng, *kinds: str, spread: float = 0.15, days: float = 10, floods_at: float = 2
    ) -> Array:
        """Add one surface per kind with its own tone, hue and season; return their labels.

        Args:
            rng: Source of tone, hue and season.
            *kinds: Keys of ``KINDS``.
            spread: Standard deviation of the logarithm of the tone, and of the hue.
            days: Standard deviation of the shift of the season, in days.
            floods_at: Water level, 0..1, that covers the surfaces; above 1 for dry land.
        """
        first = len(self.surfaces)
        for kind in kinds:
            tone = float(np.exp(rng.normal(0, spread)))
            hue, shift = float(rng.normal(0, spread)), float(rng.normal(0, days))
            self.surfaces.append(Surface(kind, tone, hue, shift, floods_at))
        return np.arange(first, len(self.surfaces))

    def put(
        self, where: Array, labels: Array | int, texture: Array | float = 0.0, height: Any = 0.0
    ) -> None:
        """Set the cells of a mask to numbers, or from arrays of shape (cells, cells).

        Args:
            where: Cells to set, bool, shape (cells, cells).
            labels: Labels of surfaces, from ``add``.
            texture: Relative brightness, about -0.5..0.5.
            height: Metres above the plain.
        """
        np.copyto(self.labels, labels, where=where)
        np.copyto(self.texture, texture, where=where, casting="same_kind")
        np.copyto(self.height, height, where=where, casting="same_kind")


@lru_cache(maxsize=64)
def _spline(cells: int, scale: float) -> tuple[Array, Array]:
    """Return the four knots and weights of a cubic B-spline at each cell, shape (4, cells)."""
    position = (np.arange(cells) + 0.5) / scale
    knot = np.floor(position).astype(np.intp)
    t = position - knot
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    )
    weights /= np.sqrt((weights**2).sum(axis=0))  # unit variance for unit knots
    return knot + np.arange(4)[:, None], weights.astype(np.float32)


def noise(rng: Rng, cells: int, scale: float) -> Array:
    """Draw smooth noise of mean 0 and deviation 1: float32, shape (cells, cells).

    Args:
        rng: Source of the noise.
        cells: Side of the canvas in cells.
        scale: Distance of the spline's knots in cells.
    """
    knots, weights = _spline(cells, scale)
    count = int(knots.max()) + 1
    field = rng.standard_normal((count, count), dtype=np.float32)
    rows = sum(weights[k][:, None] * field[knots[k]] for k in range(4))
    columns = np.ascontiguousarray(np.transpose(rows))
    return np.asarray(sum(weights[k][:, None] * columns[knots[k]] for k in range(4)))


def rough_noise(rng: Rng, cells: int, scale: float, octaves: int = 4) -> Array:
    """Add octaves of noise, each finer and weaker: float32, deviation 1, shape (cells, cells).

    Args:
        rng: Source of the noise.
        cells: Side of the canvas in cells.
        scale: Scale of the first octave in cells.
        octaves: Number of octaves.
    """
    parts = [0.6**k * noise(rng, cells, max(scale / 2**k, 1.5)) for k in range(octaves)]
    return np.asarray(sum(parts) / np.sqrt(sum(0.36**k for k in range(octaves))))


def grain(rng: Rng, cells: int) -> Array:
    """Draw independent noise per cell with deviation 1: float32, shape (cells, cells).

    Args:
        rng: Source of the noise.
        cells: Side of the canvas in cells.
    """
    return rng.standard_normal((cells, cells), dtype=np.float32)


def frame(rng: Rng, cells: int, bend: float = 0.0) -> tuple[Array, Array]:
    """Return two coordinates in cells, rotated at random about the centre, and bent: float32.

    Args:
        rng: Source of the rotation.
        cells: Side of the canvas in cells.
        bend: Standard deviation of the bending in cells.
    """
    angle = rng.uniform(0, np.pi)
    axis = np.arange(cells, dtype=np.float32) - cells / 2
    u = (np.cos(angle) * axis + np.sin(angle) * axis[:, None]).astype(np.float32)
    v = (np.cos(angle) * axis[:, None] - np.sin(angle) * axis).astype(np.float32)
    if bend:
        u += bend * noise(rng, cells, 40)
        v += bend * noise(rng, cells, 40)
    return u, v


class Parcels(NamedTuple):
    """A division of the plane; every array has the shape of the canvas."""

    ids: Array  # parcel of each cell in 0..4095; distant parcels may share a number
    edge: Array  # distance to the nearest border in cells
    u: Array  # coordinate across the strip from its border, in cells
    v: Array  # coordinate along the strip from the parcel's border, in cells

    def pick(self, rng: Rng, values: Array) -> Array:
        """Give every parcel one of some values, and return that of each cell's.

        Args:
            rng: Source of the choice.
            values: Values to choose from, shape (N,).
        """
        return np.asarray(values[rng.integers(0, len(values), _MAX_PARCELS)][self.ids])


def strips(rng: Rng, u: Array, v: Array, width: float, length: float) -> Parcels:
    """Cut the plane into strips of unequal width across ``u``, and the strips into pieces.

    Args:
        rng: Source of widths and lengths.
        u: Coordinate across the strips in cells, from ``frame``.
        v: Coordinate along the strips in cells, from ``frame``.
        width: Mean width of a strip in cells.
        length: Mean length of a piece in cells.
    """
    reach = float(np.hypot(*u.shape)) / 2 + 3 * width
    count = int(2 * reach / (0.6 * width)) + 2
    borders = -reach + np.cumsum(width * rng.uniform(0.6, 1.4, count))
    strip = np.searchsorted(borders, u.ravel()).reshape(u.shape).clip(1, count - 1)
    lengths = (length * rng.uniform(0.6, 1.6, count)).astype(np.float32)[strip]
    along = v + (length * rng.random(count)).astype(np.float32)[strip] + 4 * reach
    across = u - borders[strip - 1].astype(np.float32)
    piece = np.floor(along / lengths)
    rest = along - piece * lengths
    gap = borders[strip].astype(np.float32) - u
    edge = np.minimum(np.minimum(across, gap), np.minimum(rest, lengths - rest))
    ids = (strip * 131 + piece.astype(np.intp) * 17) % _MAX_PARCELS
    return Parcels(ids, edge, across, rest)


def patches(rng: Rng, u: Array, v: Array, size: float) -> Parcels:
    """Divide the plane into irregular polygons (jittered Voronoi).

    Args:
        rng: Source of the polygons.
        u: First coordinate in cells, from ``frame``.
        v: Second coordinate in cells, from ``frame``.
        size: Size of a polygon in cells.
    """
    side = int(np.hypot(*u.shape) / size) + 8
    jitter = rng.uniform(0.1, 0.9, (2, side, side)).astype(np.float32)
    x, y = u / size + side / 2, v / size + side / 2
    column, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    first = np.full(u.shape, np.inf, np.float32)
    second, ids = first.copy(), np.zeros(u.shape, np.intp)
    for step in range(9):
        c = (column + step % 3 - 1).clip(0, side - 1)
        r = (row + step // 3 - 1).clip(0, side - 1)
        distance = (x - c - jitter[0, r, c]) ** 2 + (y - r - jitter[1, r, c]) ** 2
        is_nearer = distance < first
        second = np.where(is_nearer, first, np.minimum(second, distance))
        first = np.where(is_nearer, distance, first)
        ids = np.where(is_nearer, r * side + c, ids)
    return Parcels(ids % _MAX_PARCELS, (np.sqrt(second) - np.sqrt(first)) * size / 2, u, v)
