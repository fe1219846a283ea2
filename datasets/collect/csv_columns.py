"""Columns of numbers in a CSV file of the user's."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError, listed, quoted

Array = NDArray[Any]


def read_columns(
    flag: str, path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Array]:
    """Read columns by the names in the first line; others may be there, in any order.

    Args:
        flag: That named the file, for errors.
        path: Text in UTF-8.
        needed: Names of columns without which the file is refused.
        optional: Names of columns that are read where they are there.

    Returns:
        Per name float64, one or more rows; NaN where a cell is empty. A file without a first line
        of names, but with three numbers a line, is read as index, lng, lat: the list of SSL4EO-S12.
    """
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
        names = ["index", "lng", "lat"]
    else:
        rows = rows[1:]
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(
            f"--{flag} {path} has no column {missing[0]}, only {listed(names) or 'nothing'}: its "
            f"first line must name {', '.join(needed)}"
        )
    if not rows:
        raise UserError(f"--{flag} {path} has no rows: give it one or more")
    wanted = {name: names.index(name) for name in (*needed, *optional) if name in names}
    values = np.array([_numbers(flag, path, line, row, wanted) for line, row in rows])
    return dict(zip(wanted, values.T, strict=True))


def check_coordinates(flag: str, path: Path, lat: Array, lng: Array) -> None:
    """Refuse latitudes beyond the poles, and longitudes of more than a turn."""
    for name, values, limit in (("lat", lat, 90), ("lng", lng, 180)):
        wrong = np.flatnonzero(~(np.abs(values) <= limit))
        if len(wrong):
            raise UserError(
                f"--{flag} {path} has {name} {values[wrong[0]]:g} in row {wrong[0] + 1}: it must "
                f"be from -{limit} to {limit}"
            )


def _numbers(
    flag: str, path: Path, line: int, row: list[str], wanted: dict[str, int]
) -> list[float]:
    numbers = []
    for name, column in wanted.items():
        cell = row[column].strip() if column < len(row) else ""
        if cell and not _is_number(cell):
            raise UserError(
                f"--{flag} {path} has {name} {quoted(cell)} in line {line}: it must be a number"
            )
        numbers.append(float(cell) if cell else np.nan)
    return numbers


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
