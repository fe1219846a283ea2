"""The places of a plan as a file, and places that somebody else has chosen."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.bands import RESOLUTION_M
from datasets.collect.csv_columns import check_coordinates, read_columns
from datasets.collect.sampling import Places, around, shifts, uniforms
from datasets.collect.scenes import GRID_M
from datasets.collect.utm import false_northing
from utils.errors import UserError

Array = NDArray[Any]

HEADER = "number,lat,lng,epsg,left,top,shift_days"
_LONGEST_SHIFT = 36_500  # days


def places_to_csv(places: Places) -> bytes:
    """Make the text of places.csv; ``places_from_csv`` gives the same places."""
    columns = [column.tolist() for column in vars(places).values()]
    lines = [
        f"{number},{lat:.6f},{lng:.6f},{epsg},{left},{top},{shift}"
        for number, (lat, lng, epsg, left, top, shift) in enumerate(zip(*columns, strict=True))
    ]
    return "\n".join([HEADER, *lines, ""]).encode()


def places_from_csv(text: bytes) -> Places:
    """Read the text of places.csv.

    Raises:
        ValueError: It is not such a text, or has a place that cannot be.
    """
    header, _, body = text.partition(b"\n")
    if header.decode() != HEADER or not body.strip():
        raise ValueError("no places")
    table = np.loadtxt(io.BytesIO(body), delimiter=",", ndmin=2, comments=None)
    if table.shape[1] != HEADER.count(",") + 1 or not np.isfinite(table).all():
        raise ValueError("other columns")
    number, lat, lng, epsg, left, top, shift = table.T
    zone, hemisphere = epsg % 100, epsg // 100
    good = (
        (number == np.arange(len(table)))
        & (np.abs(lat) <= 90)
        & (np.abs(lng) <= 180)
        & np.isin(hemisphere, (326, 327))
        & (zone >= 1)
        & (zone <= 60)
        & (np.abs(left) < 1e7)  # metres; a zone is within
        & (np.abs(top) < 2e7)
        & (left % GRID_M == 0)
        & (top % np.where(hemisphere == 326, GRID_M, 20) == 0)  # see ``check_lattice``
        & (shift >= 0)
        & (shift <= _LONGEST_SHIFT)
    )
    if not good.all() or (table[:, 3:] % 1).any():
        raise ValueError("places that cannot be")
    return Places(lat, lng, *(column.astype(np.int32) for column in (epsg, left, top, shift)))


def check_lattice(path: Path, places: Places, bands: Sequence[str]) -> None:
    """Refuse places whose pixels of 60 m are not those of Sentinel-2, if such bands are wanted.

    Earlier versions measured southern corners from a northing of 0: 20 m beside the lattice, which
    does no harm to bands of 10 and 20 m.
    """
    coarse = [band for band in bands if RESOLUTION_M[band] == GRID_M]
    count = np.count_nonzero((places.top - false_northing(places.epsg)) % GRID_M)
    if coarse and count:
        raise UserError(
            f"{path} has {count} southern places that lie beside Sentinel-2's grid of 60 m, as an "
            f"earlier version planned them: their {' and '.join(coarse)} are wrong where they are "
            "collected. Plan again with another --save_path (northern places stay where they are), "
            "and use only the other bands of this collection's southern places"
        )


def read_match_file(path: Path, *, seed: int, patch_px: int, max_shift_days: int) -> Places:
    """Read places to collect again.

    Args:
        path: CSV with lat and lng in degrees, such as the places.csv of a plan; or lines of index,
            lng, lat as of SSL4EO-S12. Shifts are those of a column shift_days, else drawn.
        seed: Of drawn shifts.
        patch_px: Side of a patch in pixels of 10 m.
        max_shift_days: Drawn shifts are from 0 to one less.
    """
    columns = read_columns("match_file", path, ("lat", "lng"), ("shift_days",))
    lat, lng = columns["lat"], columns["lng"]
    check_coordinates("match_file", path, lat, lng)
    outside = np.flatnonzero((lat < -80) | (lat > 84))
    if len(outside):
        raise UserError(
            f"--match_file {path} has lat {lat[outside[0]]:g} in row {outside[0] + 1}, where UTM "
            "has no zone: take rows beyond -80 and 84 away"
        )
    places = around(lat, lng, patch_px)
    shift = columns.get("shift_days")
    if shift is None:
        places.shift_days[:] = shifts(uniforms(seed, 0, len(lat)), max_shift_days)
        return places
    wrong = np.flatnonzero(~((shift >= 0) & (shift <= _LONGEST_SHIFT) & (shift % 1 == 0)))
    if len(wrong):
        raise UserError(
            f"--match_file {path} has shift_days {shift[wrong[0]]:g} in row {wrong[0] + 1}: it "
            f"must be a whole number from 0 to {_LONGEST_SHIFT}"
        )
    places.shift_days[:] = shift
    return places


def check_matched(path: Path, places: Places, patch_px: int) -> None:
    """Refuse places that are there twice, and tell how many patches overlap another one."""
    pairs = overlapping(places, patch_px)
    for first, second in pairs:
        if places.left[first] == places.left[second] and places.top[first] == places.top[second]:
            raise UserError(
                f"--match_file {path} has the same place in rows {first + 1} and {second + 1}: "
                "take one away"
            )
    if pairs:
        count = len({number for pair in pairs for number in pair})
        print(f"{count} patches of {path} overlap another one of it", file=sys.stderr)


def overlapping(places: Places, patch_px: int) -> list[tuple[int, int]]:
    """Return pairs of numbers of patches of one UTM zone that overlap, the smaller number first."""
    side = 10 * patch_px
    by_cell: dict[tuple[int, int, int], list[int]] = {}
    pairs = []
    rows = zip(places.epsg.tolist(), places.left.tolist(), places.top.tolist(), strict=True)
    for number, (epsg, left, top) in enumerate(rows):
        column, line = left // side, top // side
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                for other in by_cell.get((epsg, column + dx, line + dy), ()):
                    apart = abs(places.left[other] - left), abs(places.top[other] - top)
                    if max(apart) < side:
                        pairs.append((other, number))
        by_cell.setdefault((epsg, column, line), []).append(number)
    return pairs
