"""The places of a plan as a file, and places that a user's file lists."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.bands import RESOLUTION_M
from datasets.collect.sampling import Places, around, shifts, uniforms
from datasets.collect.scenes import GRID_M, Array
from datasets.collect.utm import false_northing
from utils.errors import UserError, quoted
from utils.files import read_file

HEADER = "number,lat,lng,epsg,left,top,shift_days"
_LONGEST_SHIFT = 36_500  # days
MAX_PLACES_BYTES = 2**29  # of a list of places: 5,000,000 have 50 bytes each


def places_to_csv(places: Places) -> bytes:
    """Make the text of places.csv; ``places_from_csv`` gives the same places."""
    columns = [column.tolist() for column in vars(places).values()]
    lines = [
        f"{number},{lat:.6f},{lng:.6f},{epsg},{left},{top},{shift}"
        for number, (lat, lng, epsg, left, top, shift) in enumerate(zip(*columns, strict=True))
    ]
    return "\n".join([HEADER, *lines, ""]).encode()


def places_from_csv(text: bytes) -> Places:
    """Read the text of places.csv; a ``ValueError`` if it is not one, or no place can be there."""
    header, _, body = text.partition(b"\n")
    if header.decode() != HEADER or not body.strip():
        raise ValueError("no places")
    table = np.loadtxt(io.BytesIO(body), delimiter=",", ndmin=2, comments=None)
    number, lat, lng, epsg, left, top, shift = table.T
    # Northern corners are multiples of 60 m; for southern ones see ``check_lattice``.
    pitch = np.where(epsg < 32700, GRID_M, 20)
    good = (np.abs(lat) <= 90) & (np.abs(lng) <= 180) & (table[:, 3:] % 1 == 0).all(1)
    good &= np.isin(epsg // 100, (326, 327)) & (epsg % 100 >= 1) & (epsg % 100 <= 60)
    good &= (np.abs(left) < 1e7) & (np.abs(top) < 2e7) & (left % GRID_M == 0) & (top % pitch == 0)
    good &= (number == np.arange(len(table))) & (shift >= 0) & (shift <= _LONGEST_SHIFT)
    if not good.all():
        raise ValueError(f"row {np.argmin(good) + 1} is not a place")
    return Places(lat, lng, *(column.astype(np.int32) for column in (epsg, left, top, shift)))


def check_lattice(path: Path, places: Places, bands: Sequence[str]) -> None:
    """Refuse places whose pixels of 60 m are not those of Sentinel-2, if such bands are wanted.

    Earlier versions measured southern corners from a northing of 0: 20 m off the lattice, which
    does no harm to bands of 10 and 20 m.

    Args:
        path: File of the places, for the error.
        places: Places of a plan.
        bands: Bands of the plan.
    """
    coarse = [band for band in bands if RESOLUTION_M[band] == GRID_M]
    count = np.count_nonzero((places.top - false_northing(places.epsg)) % GRID_M)
    if coarse and count:
        raise UserError(
            f"{path} has {count} southern places that are off Sentinel-2's grid of 60 m, as an "
            f"earlier version planned them: their {' and '.join(coarse)} are wrong where they are "
            "collected. Plan again with another --save_path (northern places stay where they are), "
            "and use only the other bands of this collection's southern places"
        )


def read_match_file(path: Path, *, seed: int, patch_px: int, max_shift_days: int) -> Places:
    """Read places to collect again.

    Args:
        path: CSV with lat and lng in degrees, such as the places.csv of a plan; or lines of index,
            lng, lat as of SSL4EO-S12. Shifts are those of a column shift_days, else drawn.
        seed: Seed of drawn shifts.
        patch_px: Side of a patch in pixels of 10 m.
        max_shift_days: Drawn shifts are from 0 to one less.

    Raises:
        UserError: A place is outside of UTM, or its shift is out of range.
    """
    columns = read_columns("match_file", path, ("lat", "lng"), ("shift_days",))
    lat, lng, shift = columns["lat"], columns["lng"], columns.get("shift_days")
    if shift is None:
        shift = shifts(uniforms(seed, 0, len(lat)), max_shift_days)
    good = (lat >= -80) & (lat <= 84) & (shift >= 0) & (shift <= _LONGEST_SHIFT) & (shift % 1 == 0)
    if not good.all():
        row = np.argmin(good)
        raise UserError(
            f"--match_file {path} has lat {lat[row]:g} and shift_days {shift[row]:g} in row "
            f"{row + 1}: lat must be from -80 to 84, where UTM has zones, and shift_days a whole "
            f"number from 0 to {_LONGEST_SHIFT}"
        )
    places = around(lat, lng, patch_px)
    places.shift_days[:] = shift
    return places


def read_columns(
    flag: str, path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Array]:
    """Read columns by the names in the first line; others may be there, in any order.

    Args:
        flag: Flag that named the file, for errors.
        path: Text in UTF-8.
        needed: Names of columns without which the file is refused, lat and lng among them.
        optional: Names of columns that are read if they exist.

    Returns:
        Per name float64, one or more rows; NaN where a cell is empty. A file without a first line
        of names, but with three numbers a line, is read as index, lng, lat: the list of SSL4EO-S12.

    Raises:
        UserError: The file cannot be read, or lacks a column.
    """
    try:
        text = read_file(path, MAX_PLACES_BYTES).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        names = [cell.strip().lower() for cell in rows.pop(0)] if rows else []
        if len(names) == 3 and all(re.fullmatch(r"[-+.\de]+", name) for name in names):
            rows.insert(0, names)
            names = ["index", "lng", "lat"]
        wanted = [*needed, *(name for name in optional if name in names)]
        columns = {
            name: np.array(
                [float("".join(row[index : index + 1]).strip() or "nan") for row in rows]
            )
            for name, index in [(name, names.index(name)) for name in wanted]
        }
        good = (np.abs(columns["lat"]) <= 90) & (np.abs(columns["lng"]) <= 180)
        if not good.all() or not rows:
            row = np.argmin(good) if rows else -1
            raise ValueError(f"row {row + 1} has no lat in -90..90 and lng in -180..180")
    except OSError as error:
        raise UserError(f"--{flag} {path} cannot be read: {error.strerror}: check it") from error
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"--{flag} {path} is not CSV in UTF-8 whose first line names {', '.join(needed)} and "
            f"whose cells are numbers: {quoted(str(error), 200)}"
        ) from error
    return columns


def check_distinct(path: Path, places: Places) -> None:
    """Refuse places of a file that occur twice.

    Args:
        path: File of the places, for the error.
        places: Places to compare.
    """
    seen: dict[tuple[int, int, int], int] = {}
    corners = (column.tolist() for column in (places.epsg, places.left, places.top))
    for row, corner in enumerate(zip(*corners, strict=True), 1):
        if seen.setdefault(corner, row) != row:
            raise UserError(
                f"--match_file {path} has the same place in rows {seen[corner]} and {row}: "
                "remove one"
            )
