"""Speed of a pre-training, in ``timing.csv``: equal runs differ in it, but not in metrics.csv."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler

from utils.errors import UserError
from utils.history import rows_until
from utils.run_log import RunLog

TIMING = "timing.csv"
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of macOS and of Linux
_FETCH = ".train_dataloader_next"  # end of the name that Lightning's loop gives to reading a batch


def peak_memory() -> int:
    """Return the largest memory of this process so far, in bytes, without its loaders'."""
    return getrusage(RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES


class Waiting(PassThroughProfiler):
    """Add up the ``seconds`` in which the training waits for its loader."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = self._began = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self._began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self.seconds += time.perf_counter() - self._began


class Timing(Callback):
    """Write learning rate, speed, waiting time and peak memory when other values are logged.

    These steps wait for the device anyway, so the seconds between two of them are those of the
    device, and no other step waits. Everything counts that happens between them: probes and
    checkpoints, too. A resumed run keeps the rows of its steps.

    Args:
        folder: Folder of ``timing.csv``.
        waiting: Profiler of the trainer.
        resumed: Checkpoint of the run to resume, in a subfolder of the folder of its file.
        on_error: "stop" or "continue" if the file cannot be written.
    """

    def __init__(self, folder: Path, waiting: Waiting, resumed: Path | None, on_error: str) -> None:
        self._folder, self._waiting, self._on_error = folder, waiting, on_error
        self._before = resumed and resumed.parent.parent / TIMING
        self._log: RunLog | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            rows: Sequence[Any] = ()
            if self._before is not None and self._before.is_file():
                try:
                    rows = rows_until(self._before, trainer.global_step)
                except UserError as error:  # nothing that is learned depends on it
                    print(f"{error}; the training writes a new one", file=sys.stderr)
            self._log = RunLog(self._folder, rows, file=TIMING, on_error=self._on_error)
            self._restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._log is None:
            return
        self._samples += len(batch[0]) * trainer.world_size
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        seconds = time.perf_counter() - self._began
        values = {
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "samples_per_s": self._samples / seconds,
            "waiting_percent": 100 * self._waiting.seconds / seconds,
            "peak_memory_gb": peak_memory() / 1e9,
        }
        if pl_module.device.type == "cuda":
            values["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        self._log.log_metrics(values, trainer.global_step - 1)
        self._log.save()
        self._restart()

    def _restart(self) -> None:
        self._samples, self._waiting.seconds, self._began = 0, 0.0, time.perf_counter()
