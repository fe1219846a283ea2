"""The values that a run logs: ``metrics.csv``, in one file also for a run that was interrupted."""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.checkpoint import whole_epochs
from utils.errors import UserError
from utils.run_log import METRICS, read_rows


def rows_before(path: Path, checkpoint: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the logged rows of the steps of a run; [] if there are none, which is reported.

    Args:
        path: Checkpoint in the folder of ``metrics.csv``, or in a subfolder of it.
        checkpoint: Its content.

    Raises:
        UserError: ``metrics.csv`` is damaged.
    """
    done = checkpoint["global_step"]
    paths = [folder / METRICS for folder in (path.parent, path.parent.parent)]
    found = next((path for path in paths if path.is_file()), paths[-1])
    rows = rows_until(found, done)
    if not rows and whole_epochs(path, checkpoint):  # within the first one there may be none
        text = f"{found} has no rows of the first {done} steps: a new history begins"
        tqdm.write(text, file=sys.stderr)
    return rows


def rows_until(path: Path, step: int) -> list[dict[str, float]]:
    """Return the logged rows of the steps before one; [] if the file is missing.

    Args:
        path: The file.
        step: First step whose row is left out.

    Raises:
        UserError: The file is damaged.
    """
    # Row s describes step s, from 0.
    return [row for row in read_history(path) if row["step"] < step]


def last_values(path: Path) -> dict[str, float]:
    """Return the last value of each column of ``metrics.csv``, of the whole run.

    Args:
        path: The file.

    Raises:
        UserError: The file is damaged.
    """
    values: dict[str, float] = {}
    for row in read_history(path):
        values |= row
    return {name: value for name, value in values.items() if name not in ("step", "epoch")}


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the values of each complete row of ``metrics.csv``; [] if it is missing.

    Args:
        path: The file, or ``timing.csv``.

    Raises:
        UserError: It is damaged.
    """
    if not path.exists():
        return []
    try:
        # Integers stay integers, so that the text is the same.
        rows = [
            {name: int(text) if text.isdigit() else float(text) for name, text in row.items()}
            for row in read_rows(path)
        ]
        if not all("step" in row for row in rows):
            raise ValueError("a row without its step")
    except (TypeError, ValueError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: restore it from a copy, or move it away") from error
    return rows
