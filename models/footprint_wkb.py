"""Corners of patches in degrees as bounding boxes and as well-known binary (WKB).

A patch that crosses the antimeridian has a box whose western edge is east of its eastern edge, and
is a polygon on each side of it (RFC 7946, sections 3.1.9 and 5.2).
"""

import struct

import numpy as np

_POLYGON, _MULTI_POLYGON = 3, 6  # OGC 06-103r4, table 7
_LITTLE_ENDIAN = 1


def boxes_of(corners: np.ndarray) -> np.ndarray:
    """Return west, south, east and north of patches.

    Args:
        corners: Longitude and latitude in degrees, shape (N, 4, 2); NaN if unknown.

    Returns:
        Degrees, float64, shape (N, 4).
    """
    unrolled, crosses = _unrolled(corners)
    boxes = np.concatenate([unrolled.min(1), unrolled.max(1)], axis=1)
    boxes[crosses, 2] -= 360
    return boxes


def wkb_of(corners: np.ndarray) -> list[bytes | None]:
    """Return each patch as a polygon, or two of them; None for one that is unknown.

    Args:
        corners: Longitude and latitude in degrees, shape (N, 4, 2); NaN if unknown.
    """
    unrolled, crosses = _unrolled(corners)
    geometries: list[bytes | None] = []
    for ring, is_split in zip(unrolled, crosses, strict=True):
        if np.isnan(ring).any():
            geometries.append(None)
        elif not is_split:
            geometries.append(_polygon(ring))
        else:
            west, east = _clipped(ring, keep_west=True), _clipped(ring, keep_west=False)
            parts = [each for each in (west, east - (360, 0)) if np.ptp(each[:, 0]) > 0]
            head = struct.pack("<BII", _LITTLE_ENDIAN, _MULTI_POLYGON, len(parts))
            geometries.append(head + b"".join(map(_polygon, parts)))
    return geometries


def _unrolled(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add 360 degrees to the western longitudes of patches that cross the antimeridian."""
    longitudes = corners[..., 0]
    crosses = longitudes.max(1) - longitudes.min(1) > 180  # a patch is never so wide; NaN is not
    unrolled = corners.copy()
    unrolled[..., 0] += 360 * (crosses[:, None] & (longitudes < 0))
    return unrolled, crosses


def _clipped(ring: np.ndarray, *, keep_west: bool) -> np.ndarray:
    """Cut a convex ring at 180 degrees: Sutherland and Hodgman (1974), one edge."""
    side = ring[:, 0] <= 180 if keep_west else ring[:, 0] >= 180
    kept = []
    for index, point in enumerate(ring):
        before = ring[index - 1]
        if side[index] != side[index - 1]:
            share = (180 - before[0]) / (point[0] - before[0])
            kept.append(before + share * (point - before))
        if side[index]:
            kept.append(point)
    return np.array(kept)


def _polygon(ring: np.ndarray) -> bytes:
    closed = np.concatenate([ring, ring[:1]])
    head = struct.pack("<BIII", _LITTLE_ENDIAN, _POLYGON, 1, len(closed))
    return head + closed.astype("<f8").tobytes()
