"""What happens around the training steps: progress, checkpoints, and how a run ends."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from tqdm import tqdm

from utils.cli import GRACE_S, exit_on_signal
from utils.distributed import gather, own_part, unshuffle
from utils.errors import UserError
from utils.normalization import InputSpec
from utils.plots import Views, plot_views, to_pictures
from utils.progress import progress
from utils.report import write_json

_SHOWN_SAMPLES = 8


class SampleProgress(Callback):
    """One bar for the whole run, in samples: their rate, the time that is left, loss and scores.

    Scores are what the module logs with ``prog_bar=True`` under ``val/``.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None
        self.loss = torch.tensor(torch.nan)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None or not trainer.is_global_zero:
            return
        samples_per_step = len(batch[0]) * trainer.world_size
        steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self.bar = progress(
            desc=self.description,
            total=steps * samples_per_step,
            initial=trainer.global_step * samples_per_step,
            unit=" samples",
            unit_scale=True,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        self.loss = outputs["loss"]
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._show(trainer, self.bar)
        self.bar.update(len(batch[0]) * trainer.world_size)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The first reading takes means over the processes: all read, or the first waits for ever.
        _ = trainer.progress_bar_metrics
        if self.bar is not None:
            self._show(trainer, self.bar)
            # The last step of an epoch may have had fewer samples.
            self.bar.total = self.bar.n * (trainer.max_epochs or 1) / (trainer.current_epoch + 1)

    def _show(self, trainer: Trainer, bar: tqdm) -> None:
        """Read the loss, which waits for the device and so is rare, and the scores."""
        shown = {"epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}"}
        shown |= {"loss": f"{float(self.loss):.3f}"}
        shown |= {
            name.removeprefix("val/"): f"{float(score):.4g}"
            for name, score in trainer.progress_bar_metrics.items()
            if name.startswith("val/")
        }
        bar.set_postfix(shown, refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class FiniteLoss(Callback):
    """Stop a run whose loss is not finite, before a checkpoint of it replaces a good one.

    The module notes the first bad step on the device; it is read where values are logged anyway.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(pl_module)
        # The last step may have broken what its own, finite loss does not show yet.
        finite = torch.stack([weights.isfinite().all() for weights in pl_module.parameters()])
        if not finite.all():
            self._stop("weights are", trainer.global_step - 1)

    def _check(self, pl_module: LightningModule) -> None:
        # Of all processes: all of them stop, or some would wait for the others for ever.
        step = int(gather(pl_module.first_bad_step[None]).max())  # type: ignore[index]
        if step >= 0:
            self._stop("loss is", step)

    def _stop(self, what: str, step: int) -> None:
        raise UserError(
            f"the {what} not finite at step {step}: start again with a lower --learning_rate, or "
            "with --precision 32-true; the last good checkpoint stays as it is"
        )


class SaveCheckpoints(Checkpoint):
    """Write ``last.ckpt`` after every epoch, and a copy that stays every ``every_n_epochs``.

    Args:
        folder: Where to write.
        origin: Arguments, versions and commit of the run, written beside the checkpoints.
        every_n_epochs: Epochs between the copies that stay; None keeps no copies.
    """

    def __init__(
        self, folder: Path, origin: dict[str, Any], every_n_epochs: int | None = None
    ) -> None:
        self.folder = folder
        self.every_n_epochs = every_n_epochs
        self.origin = origin

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_json(self.folder / "arguments.json", self.origin)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning logs the means of an epoch after its checkpoint. A resumed run needs them.
        for logger in trainer.loggers:
            logger.save()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        if self.every_n_epochs is not None and done % self.every_n_epochs == 0:
            trainer.save_checkpoint(self.folder / f"epoch={done}.ckpt", weights_only=False)


class ViewsPicture(Callback):
    """Draw the views of the first batch: what the network is asked to tell apart.

    A resumed run keeps the picture of its first start.

    Args:
        path: PNG to write.
        spec: How the views were normalised.
        labels: What each view is, the query first.
        dates: Gives, for each view, the days of the first samples of the current batch.

    Attributes:
        shown: What was drawn; None before the first batch, and in all processes but the first.
    """

    def __init__(
        self,
        path: Path,
        spec: InputSpec,
        labels: Sequence[str],
        dates: Callable[[int], list[list[str]]],
    ) -> None:
        self.path = path
        self.spec = spec
        self.labels = labels
        self.dates = dates
        self.is_drawn = path.exists()
        self.shown: Views | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.is_drawn:
            return
        self.is_drawn = True
        img_q, img_k, order = batch
        if order is not None:  # the keys of this process's queries may be in another process
            img_k = [own_part(unshuffle(views, order)) for views in img_k]
        if trainer.is_global_zero:
            count = min(_SHOWN_SAMPLES, len(img_q))
            pictures = [to_pictures(views[:count], self.spec) for views in (img_q, *img_k)]
            self.shown = Views(pictures, self.labels, self.dates(count))
            plot_views(self.path, self.shown)


class EndTogether(Callback):
    """When one of several processes fails, all of them end, with its exit code.

    The process that fails says why. The first one may have files to finish, the others never.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            # Lightning's handler sends a message, for which a failed process no longer waits.
            first = trainer.is_global_zero
            signal.signal(signal.SIGTERM, exit_on_signal if first else signal.SIG_DFL)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        children = getattr(trainer.strategy.launcher, "procs", [])  # if Lightning started them
        lost_another = trainer.world_size > 1 and isinstance(exception, RuntimeError)
        code = _wait_for_failure(children) if lost_another else 0
        for child in children:
            child.kill()  # a process that waits for another one in vain hears no other signal
        if code:
            sys.exit(code)


def _wait_for_failure(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Return the exit code of the first child that failed; 0 if none does within the grace time.

    Without children, another launcher ends this process meanwhile, if another process failed.
    """
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline:
        for child in children:
            if child.poll():
                return max(1, child.returncode)
        time.sleep(0.05)
    return 0
