"""Checkpoints of a training: after epochs, by time, and when the machine is taken away."""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from tqdm import tqdm

from utils.distributed import gather
from utils.errors import UserError, WriteError
from utils.files import remove_abandoned, remove_partials, written_whole
from utils.report import write_json
from utils.resume import ARGUMENTS, LAST, PREVIOUS
from utils.signals import Hold

_SAVE, _STOP = 1, 2
_AGAIN = "the same command with --resume auto resumes"
_CHECK_EVERY = 10  # steps of several GPUs between two questions, whose answer waits for the device
_UNSAVED_S = 60.0  # training that a signal during a validation may lose


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
        on_save_error: ``continue`` reports a checkpoint that cannot be written, and tries again
            when the next one is due; ``stop`` ends the run, and so does the last one in any case.
    """

    def __init__(
        self,
        folder: Path,
        origin: dict[str, Any],
        resumed: Path | None,
        every_n_epochs: int | None,
        every_minutes: float | None,
        on_save_error: str,
    ) -> None:
        self.folder = folder
        self.origin = origin
        self.resumed = resumed
        self.every_n_epochs = every_n_epochs
        self.every_minutes = every_minutes
        self.on_save_error = on_save_error
        self._saved_at = time.monotonic()
        self._signals = Hold()
        self._is_stopped = False
        self._random: Tensor | None = None  # state to restore
        # A damaged last.ckpt must not replace the previous one, from which the run resumes.
        self._is_last_good = resumed == folder / LAST

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if (self.folder / LAST).is_dir():
            raise UserError(f"{self.folder / LAST} is a folder, not a checkpoint: move it away")

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
            if self.resumed is not None:
                remove_abandoned(self.resumed.parent.glob(".*.partial"))
        if self.every_minutes is not None:
            self._signals.start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._random is not None:  # the loader has drawn numbers of an epoch that began before
            torch.set_rng_state(self._random)
            self._random = None
        wanted = 0
        if self.every_minutes is not None:
            wanted = self._wanted(trainer, batch_idx, 60 * self.every_minutes)
        is_saved = bool(wanted) and self._save(trainer, is_last=wanted == _STOP)
        if wanted == _STOP:
            self._stop(trainer, is_saved=is_saved)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning logs the means of an epoch after its checkpoint; a resumed run needs them.
        for logger in trainer.loggers:
            logger.save()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        is_saved = self._save(trainer, is_last=done == trainer.max_epochs)
        if is_saved and self.every_n_epochs is not None and done % self.every_n_epochs == 0:
            self._write(trainer, self.folder / f"epoch={done}.ckpt", is_last=False)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add random states, and take back what is counted of a batch that is read again."""
        state = torch.get_rng_state().to(trainer.strategy.root_device)
        checkpoint["random_states"] = gather(state[None]).cpu()
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if batches["current"]["ready"] != batches["current"]["completed"]:
            batches["is_last_batch"] = False
            for counts in (batches["total"], batches["current"]):
                counts["ready"] = counts["completed"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states, own = checkpoint.get("random_states"), torch.get_rng_state()
        if states is None:
            return  # of an earlier version
        shape = (len(states), *own.shape)
        if not isinstance(states, Tensor) or (states.dtype, states.shape) != (own.dtype, shape):
            raise ValueError("random_states has another shape or type")
        if len(states) != trainer.world_size:
            return  # of other processes
        state = states[trainer.global_rank].clone()  # torch crashes on a part of a tensor
        torch.set_rng_state(state)  # before the loader draws its numbers
        if not checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]:
            self._random = state

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._signals.came:  # after the last step
            self._stop(trainer)
        self._signals.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._signals.stop()
        if not self._signals.came or self._is_stopped:
            return
        if trainer.is_global_zero:
            text = f"stopped between two steps: {_AGAIN} from the checkpoint before"
            tqdm.write(text, file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)  # also for the error of a process whose neighbour has left

    def _wanted(self, trainer: Trainer, batch_idx: int, every_s: float) -> int:
        """Return what any process wants before this step, the same in all of them."""
        is_last = batch_idx + 1 == trainer.num_training_batches  # a validation may follow
        unsaved_s = time.monotonic() - self._saved_at
        is_due = unsaved_s >= every_s or (is_last and unsaved_s >= _UNSAVED_S)
        wanted = _STOP if self._signals.came else _SAVE if is_due else 0
        device = trainer.strategy.root_device
        if trainer.world_size == 1:
            return wanted
        if device.type == "cuda" and trainer.global_step % _CHECK_EVERY and not is_last:
            return 0
        return int(gather(torch.tensor([wanted], device=device)).max())

    def _stop(self, trainer: Trainer, *, is_saved: bool = True) -> None:
        if trainer.is_global_zero:
            where = f"{self.folder / LAST} holds step {trainer.global_step}; {_AGAIN}"
            if not is_saved:
                where = f"step {trainer.global_step} was not finite; {_AGAIN} from the one before"
            tqdm.write(f"stopped: {where}", file=sys.stderr)
        self._is_stopped = True
        sys.exit(os.EX_TEMPFAIL)

    def _save(self, trainer: Trainer, *, is_last: bool) -> bool:
        """Write ``last.ckpt``; return whether the weights are ones to save."""
        if not getattr(trainer.lightning_module, "is_last_step_good", True):
            return False  # the weights may be the cause
        last, Hold.is_saving = self.folder / LAST, True
        try:
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.save()
                if self._is_last_good and self.every_minutes is not None:
                    self._keep_previous(trainer, last)
            self._write(trainer, last, is_last)
        finally:
            Hold.is_saving = False
        self._saved_at = time.monotonic()
        return True

    def _keep_previous(self, trainer: Trainer, last: Path) -> None:
        try:
            with written_whole(self.folder / PREVIOUS) as partial:
                _link(last, partial)
        except WriteError as error:
            self._survive(trainer, error, is_last=False)  # the newest one may succeed

    def _write(self, trainer: Trainer, path: Path, is_last: bool) -> None:
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except WriteError as error:
            self._survive(trainer, error, is_last=is_last)
            trainer.strategy.barrier()  # where the other processes wait
        else:
            self._is_last_good = self._is_last_good or path.name == LAST

    def _survive(self, trainer: Trainer, error: WriteError, *, is_last: bool) -> None:
        """Print the error of a write, unless it ends the run."""
        if is_last or self.on_save_error == "stop":
            raise error
        text = f"step {trainer.global_step}: {error}; the training continues"
        tqdm.write(text, file=sys.stderr)


def _link(path: Path, other: Path) -> None:
    """Give a file a second name; copy it where the file system has no links."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)
