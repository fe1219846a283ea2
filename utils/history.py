"""The values that a run logs: ``metrics.csv``, in one file also for a run that was interrupted."""

import csv
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from tqdm import tqdm

from utils.checkpoint import whole_epochs
from utils.errors import UserError

METRICS = "metrics.csv"  # Lightning's name
_KEPT = ".metrics.csv.kept"  # while the file is written again


def csv_logger(folder: Path, rows: list[dict[str, float]] | None) -> CSVLogger:
    """Log to ``metrics.csv``, which begins with the rows of a resumed run.

    Args:
        folder: Folder of the file.
        rows: Rows of the resumed run; None for a new run.
    """
    logger = CSVLogger(folder, name="", version="")
    if rows is None:
        return logger
    path, kept = folder / METRICS, folder / _KEPT
    # Lightning deletes the file; a kill before it is complete again must lose no rows.
    if path.exists() and not kept.exists():
        path.replace(kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        for row in rows:
            logger.experiment.log_metrics(row, step=int(row["step"]))
    logger.save()
    kept.unlink(missing_ok=True)
    return logger


def rows_before(path: Path, checkpoint: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the logged rows of the steps of a run; [] if there are none, which is reported.

    Args:
        path: Checkpoint in the folder of ``metrics.csv``, or in a subfolder of it.
        checkpoint: Its content.

    Raises:
        UserError: ``metrics.csv`` is damaged.
    """
    done = checkpoint["global_step"]
    folders = (path.parent, path.parent.parent)
    paths = [folder / name for folder in folders for name in (_KEPT, METRICS)]
    found = next((path for path in paths if path.is_file()), paths[-1])
    try:
        # Row s describes step s, from 0.
        rows = [row for row in read_history(found) if row["step"] < done]
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise UserError(f"{found} is damaged: move it away to begin a new history") from error
    if not rows and whole_epochs(path, checkpoint):  # within the first one there may be none
        text = f"{found} has no rows of the first {done} steps: a new history begins"
        tqdm.write(text, file=sys.stderr)
    return rows


def last_values(path: Path) -> dict[str, float]:
    """Return the last value of each column of ``metrics.csv``, of the whole run.

    Args:
        path: The file.
    """
    values: dict[str, float] = {}
    for row in read_history(path):
        values |= row
    return {name: value for name, value in values.items() if name not in ("step", "epoch")}


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the values of each row of ``metrics.csv``; [] if it is missing.

    Args:
        path: The file.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]
    # Integers stay integers, so that the text is the same.
    return [
        {name: int(text) if text.isdigit() else float(text) for name, text in row.items()}
        for row in rows
    ]
