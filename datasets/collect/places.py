"""The places of a plan as a file, and places that a user's file lists."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.bands import RESOLUTION_M
from datasets.collect.sampling import Places, around, shifts, uniforms
from datasets.collect.scenes import GRID_M
from datasets.collect.utm import false_northing
from utils.errors import UserError, listed, quoted

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

    Earlier versions measured southern corners from a northing of 0: 20 m off the lattice, which
    does no harm to bands of 10 and 20 m.
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
    """
    flag = "match_file"
    columns = read_columns(flag, path, ("lat", "lng"), ("shift_days",))
    lat, lng, shift = columns["lat"], columns["lng"], columns.get("shift_days")
    _check(
        flag, path, "lat", lat, (lat >= -80) & (lat <= 84), "from -80 to 84, where UTM has zones"
    )
    places = around(lat, lng, patch_px)
    if shift is None:
        shift = shifts(uniforms(seed, 0, len(lat)), max_shift_days)
    good = (shift >= 0) & (shift <= _LONGEST_SHIFT) & (shift % 1 == 0)
    rule = f"a whole number from 0 to {_LONGEST_SHIFT}"
    _check(flag, path, "shift_days", shift, good, rule)
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
    """
    names, rows = _read_rows(flag, path)
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(
            f"--{flag} {path} has no column {missing[0]}, only {listed(names) or 'nothing'}: its "
            f"first line must name {', '.join(needed)}"
        )
    if not rows:
        raise UserError(f"--{flag} {path} has no rows: give it one or more")
    columns: dict[str, Array] = {}
    for name in (each for each in (*needed, *optional) if each in names):
        index = names.index(name)
        cells = [row[index].strip() or "nan" if index < len(row) else "nan" for _, row in rows]
        try:
            columns[name] = np.array(list(map(float, cells)))
        except ValueError as error:
            wrong = next(number for number, text in enumerate(cells) if not _is_number(text))
            raise UserError(
                f"--{flag} {path} has {name} {quoted(cells[wrong])} in line {rows[wrong][0]}: it "
                "must be a number"
            ) from error
    for name, limit in (("lat", 90), ("lng", 180)):
        good = np.abs(columns[name]) <= limit
        _check(flag, path, name, columns[name], good, f"from -{limit} to {limit}")
    return columns


def _read_rows(flag: str, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and the rows with the numbers of their lines."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise UserError(f"--{flag} {path} cannot be read: {error.strerror}: check it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--{flag} {path} is not CSV in UTF-8: convert it") from error
    names = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if len(names) == 3 and all(map(_is_number, names)):
        return ["index", "lng", "lat"], rows
    return names, rows[1:]


def _check(flag: str, path: Path, name: str, values: Array, good: Array, rule: str) -> None:
    """Refuse the first value of a column that is not good."""
    wrong = np.flatnonzero(~good)
    if len(wrong):
        raise UserError(
            f"--{flag} {path} has {name} {values[wrong[0]]:g} in row {wrong[0] + 1}: it must be "
            f"{rule}"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_matched(path: Path, places: Places, patch_px: int) -> None:
    """Refuse places that occur twice, and print how many patches overlap another one."""
    pairs = overlapping(places, patch_px)
    for first, second in pairs:
        if places.left[first] == places.left[second] and places.top[first] == places.top[second]:
            raise UserError(
                f"--match_file {path} has the same place in rows {first + 1} and {second + 1}: "
                "remove one"
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
