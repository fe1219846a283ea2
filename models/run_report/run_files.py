"""Read the folder of a run: its flags, logged values and results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from models.run_timing import TIMING
from utils.errors import UserError
from utils.files import check_regular
from utils.history import read_history
from utils.run_log import METRICS

_MAX_BYTES = 2**28  # of a file of a run; a million logged steps take a tenth of it
_ARGUMENTS = "checkpoints/arguments.json"


class Run(NamedTuple):
    """What a run has left in its folder.

    Attributes:
        folder: The folder.
        facts: ``results.json``, or what a run that is still going has written of it.
        rows: Logged values by name, in order of the steps; empty for a probe.
        timing: Learning rate, speed and memory in the same way; empty if they were not written.
    """

    folder: Path
    facts: dict[str, Any]
    rows: list[dict[str, float]]
    timing: list[dict[str, float]]

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
    def training(self) -> dict[str, Any]:
        """Processes, samples and samples per step of a pre-training; empty of an older one."""
        found = self.facts.get("training") or self.metrics.get("training")
        return found if isinstance(found, dict) else {}

    @property
    def is_pretraining(self) -> bool:
        """Whether the run has learned without labels."""
        return "data_mode" in self.arguments

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its last result."""
        return bool(self.facts.get("finished"))

    @property
    def state(self) -> str:
        """Whether the run is finished, or when it has written its last values."""
        if self.is_finished:
            return "finished"
        paths = [self.folder / name for name in (METRICS, "results.json", _ARGUMENTS)]
        written = max(path.stat().st_mtime for path in paths if path.exists())
        day = f"{datetime.fromtimestamp(written, UTC):%Y-%m-%d %H:%M} UTC"
        return f"not finished; last values written {day}"


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
    return Run(folder, facts, _rows(folder / METRICS), _rows(folder / TIMING))


def _rows(path: Path) -> list[dict[str, float]]:
    """Return the complete rows of numbers; none without the file."""
    if not path.is_file():
        return []
    with _reading(path):
        return read_history(path)


def _text(path: Path) -> str:
    with _reading(path):
        return path.read_text("utf-8", errors="replace")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Refuse what no run has written, before it is read, and what cannot be read."""
    try:
        check_regular(path)
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} is larger than {_MAX_BYTES >> 20} MB: it is not of a run")
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error
