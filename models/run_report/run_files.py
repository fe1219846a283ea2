"""Read the folder of a run: its flags, logged values and results."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.files import check_regular

_MAX_BYTES = 2**28  # of a file of a run; a million logged steps take a tenth of it
_ARGUMENTS = "checkpoints/arguments.json"


class Run(NamedTuple):
    """What a run has left in its folder.

    Attributes:
        folder: The folder.
        facts: ``results.json``, or what a run that is still going has written of it.
        rows: Logged values by name, in order of the steps; empty for a probe.
    """

    folder: Path
    facts: dict[str, Any]
    rows: list[dict[str, float]]

    @property
    def name(self) -> str:
        """Name of the run in a report."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Flags of the run."""
        found = self.facts.get("arguments")
        return found if isinstance(found, dict) else {}

    @property
    def metrics(self) -> dict[str, Any]:
        """Results of the run, so far."""
        found = self.facts.get("metrics")
        return found if isinstance(found, dict) else {}

    @property
    def is_pretraining(self) -> bool:
        """Whether the run has learned without labels."""
        return "data_mode" in self.arguments


def read_run(folder: Path) -> Run:
    """Read a run, finished or still going.

    Args:
        folder: Folder of the run, ``version_N``.

    Raises:
        UserError: The folder is not one of a run, or a file in it is damaged.
    """
    found = next((n for n in ("results.json", _ARGUMENTS) if (folder / n).is_file()), None)
    if found is None:
        inner = sorted(folder.glob("*/version_*")) + sorted(folder.glob("version_*"))
        hint = f"did you mean {inner[-1]}?" if inner else "name the folder version_N of a run"
        raise UserError(f"{folder} holds no run (results.json or {_ARGUMENTS}): {hint}")
    try:
        facts = json.loads(_text(folder / found))
        if not isinstance(facts, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / found} is damaged: restore it from a copy") from error
    return Run(folder, facts, _read_csv(folder / "metrics.csv"))


def _read_csv(path: Path) -> list[dict[str, float]]:
    """Return the rows of numbers; none without the file."""
    if not path.is_file():
        return []
    try:
        lines = list(csv.DictReader(_text(path).splitlines()))
        return [{name: float(text) for name, text in line.items() if text} for line in lines]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: move it away to report the rest") from error


def _text(path: Path) -> str:
    try:
        check_regular(path)
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} is larger than {_MAX_BYTES >> 20} MB: it is not of a run")
        return path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error
