"""Values of a run in metrics.csv and as TensorBoard's events, in whole lines and whole events."""

import csv
import io
import os
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from utils.errors import WriteError, os_error_sentence
from utils.files import written_whole
from utils.folders import make_folder

if TYPE_CHECKING:
    from utils.trackers import Tracker

METRICS = "metrics.csv"
Row = Mapping[str, float | str]


class RunLog(Logger):
    """Write values as they are logged, in the process of rank 0.

    Lightning's loggers leave half a line on a full disk, and a thread with a traceback. Here what
    was not written is kept, and written with the next values.

    Args:
        folder: Folder of the file.
        rows: Rows of the resumed run, which replace those in the file.
        file: Name of the file.
        tensorboard: Also write events for TensorBoard.
        trackers: Also send the values there, after they are in the file.
        first_step: Step after which a resumed run logs; TensorBoard drops later ones. None for a
            new run.
        on_error: ``stop`` raises a ``WriteError``, ``continue`` prints it.
    """

    name = version = ""

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Row] = (),
        *,
        file: str = METRICS,
        tensorboard: bool = False,
        trackers: "Sequence[Tracker]" = (),
        first_step: int | None = None,
        on_error: str = "stop",
    ) -> None:
        super().__init__()
        self.path, self.on_error = folder / file, on_error
        self._columns: list[str] = []  # those in the file
        self._rows = list(rows)  # not in the file yet
        self._trackers = trackers
        events = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._events_path = folder / events if tensorboard else None
        self._events = io.BytesIO()  # not in the file yet
        self._is_failing = False
        if tensorboard:
            self._add_event(file_version="brain.Event:2")
            if first_step is not None:
                self._add_event(first_step, session_log={"status": "START"})

    @property
    def save_dir(self) -> str:
        """Folder of the run, which Lightning gives as ``trainer.log_dir``."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take values, which ``save`` writes.

        Args:
            metrics: Values by name.
            step: Step that they describe; None for the first one.
        """
        self._rows.append({**metrics, "step": step or 0})
        if self._events_path is not None:
            values = [{"tag": tag, "simple_value": value} for tag, value in metrics.items()]
            self._add_event(step or 0, summary={"value": values})
        for tracker in self._trackers:
            tracker.add(metrics, step or 0)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Flags are in ``arguments.json``."""

    @rank_zero_only
    def save(self) -> None:
        try:
            self._write()
        except WriteError as error:
            if self.on_error == "stop":
                raise
            if not self._is_failing:
                tqdm.write(f"{error}; the training continues", file=sys.stderr)
            self._is_failing = True
        else:
            self._is_failing = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with suppress(*([WriteError] if status == "failed" else [])):  # the run has its own error
            self._write()
        for tracker in self._trackers:
            tracker.finish(is_complete=status != "failed")

    def _write(self) -> None:
        if self._rows:
            columns = sorted({*self._columns, *(name for row in self._rows for name in row)})
            if columns == self._columns:
                _append(self.path, _lines(self._rows, columns))
            else:
                before = read_rows(self.path) if self._columns else []
                with written_whole(self.path) as partial:
                    partial.write_bytes(_lines([*before, *self._rows], columns, header=True))
            self._columns, self._rows = columns, []
        if self._events_path is not None and self._events.tell():
            _append(self._events_path, self._events.getvalue())
            self._events = io.BytesIO()
        for tracker in self._trackers:
            tracker.send()

    def _add_event(self, step: int = 0, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=time.time(), step=step, **content)
        RecordWriter(self._events).write(event.SerializeToString())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the complete lines of a ``metrics.csv``, without empty cells.

    Args:
        path: File to read.
    """
    text = path.read_text()
    lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [{name: cell for name, cell in line.items() if cell} for line in lines]


def _lines(rows: Sequence[Row], columns: Sequence[str], *, header: bool = False) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _append(path: Path, content: bytes) -> None:
    """Write at the end of a file; of a write that fails, nothing stays."""
    try:
        make_folder(path.parent)
        with path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                while content:
                    content = content[os.write(file.fileno(), content) :]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise WriteError(f"cannot write {os_error_sentence(error, path)}") from error
