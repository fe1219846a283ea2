"""Checkpoints of a training: after epochs, by time, and when the machine is taken away."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from tqdm import tqdm

from utils.distributed import gather
from utils.errors import UserError
from utils.files import remove_partials, written_whole
from utils.report import write_json
from utils.resume import ARGUMENTS, LAST, PREVIOUS

# SLURM, cloud machines and Ctrl-C announce the end of a run by these.
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_SAVE, _STOP = 1, 2
_REPEAT_S = 1.0  # torchrun passes on at once what its processes have received already


class SaveCheckpoints(Checkpoint):
    """Write ``last.ckpt`` after every epoch, and before a step when time or a signal wants it.

    The checkpoint before it is kept as ``previous.ckpt``. A first signal saves and ends the run
    with exit code 75 (``EX_TEMPFAIL``: run the command again); another one, more than a second
    later, ends it at once.

    Args:
        folder: Folder of the checkpoints.
        origin: Arguments, versions and commit of the run, written next to the checkpoints.
        resumed: Checkpoint that the run resumes; None for a new run.
        every_n_epochs: Epochs between copies that are kept; None keeps none.
        every_minutes: Minutes between two checkpoints, above 0, for a training that resumes within
            an epoch; None saves only whole epochs, and leaves signals alone.
    """

    def __init__(
        self,
        folder: Path,
        origin: dict[str, Any],
        resumed: Path | None,
        every_n_epochs: int | None,
        every_minutes: float | None,
    ) -> None:
        self.folder = folder
        self.origin = origin
        self.every_n_epochs = every_n_epochs
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._signalled_at = 0.0
        self._handlers: dict[int, Any] = {}  # those before ours
        # A damaged last.ckpt must not replace the previous one, from which the run resumes.
        self._is_last_good = resumed == folder / LAST

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = gather(torch.tensor([trainer.global_step], device=trainer.strategy.root_device))
        if (steps != steps[0]).any():
            raise UserError(
                "the processes resume different checkpoints: put --log_dir on a disk that all "
                "machines share"
            )
        if trainer.is_global_zero:
            write_json(self.folder / ARGUMENTS, self.origin)
            for name in (LAST, PREVIOUS):
                remove_partials(self.folder / name)  # of a run that was killed while it wrote
        if self.every_minutes is not None:
            self._handlers = {each: signal.signal(each, self._note) for each in _SIGNALS}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        wanted = 0 if self.every_minutes is None else self._wanted(trainer, self.every_minutes)
        if wanted:
            self._save(trainer)
        if wanted == _STOP:
            if trainer.is_global_zero:
                where = f"{self.folder / LAST} holds step {trainer.global_step}"
                again = "the same command with --resume auto resumes"
                tqdm.write(f"stopped: {where}; {again}", file=sys.stderr)
            sys.exit(os.EX_TEMPFAIL)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning logs the means of an epoch after its checkpoint; a resumed run needs them.
        for logger in trainer.loggers:
            logger.save()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        self._save(trainer)
        if self.every_n_epochs is not None and done % self.every_n_epochs == 0:
            trainer.save_checkpoint(self.folder / f"epoch={done}.ckpt", weights_only=False)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take back what Lightning has counted of a batch that the resumed run reads again."""
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if batches["current"]["ready"] != batches["current"]["completed"]:
            batches["is_last_batch"] = False
            for counts in (batches["total"], batches["current"]):
                counts["ready"] = counts["completed"]

    def on_train_end(self, *_: Any) -> None:
        self._restore_handlers()

    def on_exception(self, *_: Any) -> None:
        self._restore_handlers()

    def _wanted(self, trainer: Trainer, every_minutes: float) -> int:
        """Return what any process wants before this step, the same in all of them."""
        is_due = time.monotonic() - self._saved_at >= 60 * every_minutes
        wanted = _STOP if self._signal else _SAVE if is_due else 0
        device = trainer.strategy.root_device
        if trainer.world_size == 1:
            return wanted
        if device.type == "cuda" and trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return 0  # reading the answer waits for the device, as logging does
        return int(gather(torch.tensor([wanted], device=device)).max())

    def _save(self, trainer: Trainer) -> None:
        if not getattr(trainer.lightning_module, "is_last_step_good", True):
            return  # the weights may be the cause
        last = self.folder / LAST
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            if self._is_last_good and self.every_minutes is not None:
                with written_whole(self.folder / PREVIOUS) as partial:
                    _link(last, partial)
        trainer.save_checkpoint(last, weights_only=False)
        self._is_last_good = True
        self._saved_at = time.monotonic()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._signalled_at = number, now
        elif now - self._signalled_at > _REPEAT_S:
            self._restore_handlers()
            signal.raise_signal(number)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _link(path: Path, other: Path) -> None:
    """Give a file a second name; copy it where the file system has no links."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)
