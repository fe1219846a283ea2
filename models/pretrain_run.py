"""What a pre-training does around its steps: check the loss, draw pictures, write results."""

import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from models.run_report.writing import report_run
from utils.cli import print_next, trainer_kwargs
from utils.distributed import gather, own_part, unshuffle
from utils.errors import UserError
from utils.input_spec import PICTURE_BANDS, InputSpec, letters
from utils.launch import World
from utils.plots import Views, plot_training, plot_views, to_pictures
from utils.report import provenance, write_results
from utils.training import METRICS, run_trainer

_SHOWN_SAMPLES = 8


class FiniteLoss(Callback):
    """Stop a run whose loss is not finite, before a checkpoint of it replaces a good one.

    The module stores the first bad step on the device; it is read when values are logged anyway.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(pl_module)
        # The last step may have changed the weights so that only the next loss would show it.
        finite = torch.stack([weights.isfinite().all() for weights in pl_module.parameters()])
        if not finite.all():
            self._stop("weights are", trainer.global_step - 1)

    def _check(self, pl_module: LightningModule) -> None:
        # The maximum over all processes: all stop, or some would wait for the others indefinitely.
        step = int(gather(pl_module.first_bad_step[None]).max())  # type: ignore[index]
        if step >= 0:
            self._stop("loss is", step)

    def _stop(self, what: str, step: int) -> None:
        raise UserError(
            f"the {what} not finite at step {step}: start again with a lower --learning_rate, or "
            "with --precision 32-true; a good checkpoint, if there is one, is kept"
        )


class PretrainPictures(Callback):
    """Draw the views of the first batch, and in the end the curves of the run.

    A resumed run keeps the picture of the views of its first start.

    Args:
        folder: Folder of ``metrics.csv``, ``views.png`` and ``curves.png``.
        spec: Normalisation of the views.
        labels: Title of each view, the query first.
        spaces: Name of each embedding space.
        dates: Returns, for each view, the days of the first samples of the current batch.

    ``shown`` is what was drawn; None before the first batch, and in all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        spec: InputSpec,
        labels: Sequence[str],
        spaces: Sequence[str],
        dates: Callable[[int], list[list[str]]],
    ) -> None:
        self.folder = folder
        self.spec = spec
        self.labels = labels
        self.spaces = spaces
        self.dates = dates
        self.is_drawn = (folder / "views.png").exists()
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
            plot_views(self.folder / "views.png", self.shown)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            plot_training(self.folder / "curves.png", self.folder / METRICS, self.spaces)


def pretrain_trainer(
    args: Namespace, world: World, callbacks: Sequence[Callback], run_dir: Path | None
) -> Trainer:
    """Configure Lightning for a pre-training.

    Args:
        args: Flags of the run.
        world: Processes of the run.
        callbacks: Callbacks besides those of every training.
        run_dir: Folder of the run; None logs and saves nothing.
    """
    # The order of a sampler begins where the checkpoint ends; Lightning expects that of the loader.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
    settings = {"log_every_n_steps": args.log_every_n_steps, "benchmark": True}
    return run_trainer(
        "pre-training",
        world,
        trainer_kwargs(args) | settings,
        run_dir,
        run_dir and run_dir / "checkpoints",
        provenance(args),
        args.resume_from_checkpoint,
        every_n_epochs=args.save_every_n_epochs,
        every_minutes=args.save_every_minutes,
        callbacks=callbacks,
        tensorboard=True,
    )


def write_pretrain_results(
    args: Namespace,
    trainer: Trainer,
    spec: InputSpec,
    run_dir: Path,
    started: float,
    evaluation: Sequence[str],
    space_names: Sequence[str],
) -> None:
    """Write results and report, and print their paths and the command that evaluates the encoder.

    Args:
        args: Flags of the run.
        trainer: Trainer of the finished run.
        spec: Input of the encoder.
        run_dir: Folder of the run.
        started: ``time.perf_counter()`` at the start of the run.
        evaluation: Command that evaluates encoders; empty for ``main_eurosat.py``.
        space_names: Name of each embedding space.
    """
    metrics = {name: float(value) for name, value in trainer.logged_metrics.items()}
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    last = run_dir / "checkpoints" / "last.ckpt"
    write_results(run_dir / "results.json", args, metrics, started, last)
    if not args.no_report:
        report_run(run_dir, {args.data_mode: space_names})
    if not evaluation:
        is_rgb = letters(spec.bands) == PICTURE_BANDS
        archive = f"EuroSAT{'_RGB' if is_rgb else 'allBands'}.zip"
        evaluation = ("main_eurosat.py", "--data_dir", archive)
    print_next(*evaluation, "--backbone_type", "pretrain", "--ckpt_path", last)
