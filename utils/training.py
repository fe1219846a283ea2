"""Training with Lightning: the trainer of every script, its progress bar, checkpoints and end."""

import csv
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tqdm import tqdm

from utils.checkpoint import read_checkpoint
from utils.cli import trainer_kwargs
from utils.end_together import EndTogether
from utils.errors import UserError
from utils.launch import World, launch_kwargs, planned_world
from utils.precision import resolve_precision
from utils.progress import progress
from utils.report import provenance
from utils.save_checkpoints import SaveCheckpoints

METRICS = "metrics.csv"  # Lightning's name
_KEPT = ".metrics.csv.kept"  # while the file is written again


def prepare(args: Namespace) -> World:
    """Resolve devices, processes and precision in the flags, and seed all generators."""
    world = planned_world(args)
    resolve_precision(args, world.rank)
    seed_everything(args.seed, verbose=False)
    return world


def run_trainer(
    description: str,
    world: World,
    arguments: Mapping[str, Any],
    folder: Path | None = None,
    checkpoints: Path | None = None,
    origin: dict[str, Any] | None = None,
    resumed: Path | None = None,
    *,
    every_n_epochs: int | None = None,
    every_minutes: float | None = None,
    callbacks: Sequence[Callback] = (),
    tensorboard: bool = False,
) -> Trainer:
    """Configure a trainer that takes the order of the samples as the loader gives it.

    Args:
        description: What the run does, for the progress bar.
        world: Processes that train together.
        arguments: Device, precision, epochs and other arguments of ``Trainer``.
        folder: Folder of metrics.csv; None writes nothing.
        checkpoints: Folder of last.ckpt, written after every epoch; None writes none.
        origin: Arguments, versions and commit of the run, written next to the checkpoints.
        resumed: Checkpoint of the run to resume, whose metrics.csv is continued.
        every_n_epochs: Epochs between checkpoints that are kept; None keeps the last one only.
        every_minutes: See ``SaveCheckpoints``.
        callbacks: Further callbacks.
        tensorboard: Also write the values of metrics.csv for TensorBoard.
    """
    together = EndTogether()
    added: list[Callback] = [together, SampleProgress(description), *callbacks]
    if checkpoints is not None:
        added.append(
            SaveCheckpoints(checkpoints, origin or {}, resumed, every_n_epochs, every_minutes)
        )
    loggers: list[Logger] = []
    if folder is not None:
        done: int | None = read_checkpoint(resumed)["global_step"] if resumed else None
        is_first = world.rank == 0  # it alone writes
        rows = _history(resumed, done) if resumed and done is not None and is_first else None
        loggers.append(_csv_logger(folder, rows))
        if tensorboard:
            settings: dict[str, Any] = {"default_hp_metric": False}
            settings |= {"purge_step": done}  # what a resumed run logs again
            loggers.append(TensorBoardLogger(folder, name="", version="", **settings))
    trainer = Trainer(
        **{"log_every_n_steps": 1, **arguments, **launch_kwargs(world)},
        logger=loggers or False,
        callbacks=added,
        enable_checkpointing=checkpoints is not None,
        enable_progress_bar=False,  # ours counts samples
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ours draws from (seed, epoch)
    )
    together.watch(trainer)
    return trainer


def make_trainer(
    args: Namespace,
    world: World,
    description: str,
    max_epochs: int,
    folder: Path | None,
    *,
    seed: int,
    train_frac: float,
    val_every_n_epochs: int = 1,
) -> Trainer:
    """Configure the trainer of one repetition; its checkpoints are written into the folder.

    Args:
        args: Flags of the run.
        world: Processes that train together.
        description: What the run does, for the progress bar.
        max_epochs: Epochs of this training.
        folder: Folder of this repetition; None writes nothing.
        seed: Seed of this repetition.
        train_frac: Share of the labels, in 0..1.
        val_every_n_epochs: Epochs between validations.
    """
    arguments = trainer_kwargs(args)
    arguments |= {"max_epochs": max_epochs, "check_val_every_n_epoch": val_every_n_epochs}
    checkpoints = folder and folder / "checkpoints"
    origin = provenance(of_repetition(args, seed, train_frac))
    resumed = args.resume_from_checkpoint
    return run_trainer(description, world, arguments, folder, checkpoints, origin, resumed)


def of_repetition(args: Namespace, seed: int, train_frac: float) -> Namespace:
    """Return the flags of one training of a run, which resume it alone.

    Args:
        args: Flags of the run.
        seed: Seed of the repetition.
        train_frac: Its share of the labels, in 0..1.
    """
    return Namespace(**vars(args) | {"seed": seed, "num_seeds": 1, "train_frac": [train_frac]})


def _csv_logger(folder: Path, rows: list[dict[str, float]] | None) -> CSVLogger:
    """Log to ``metrics.csv``, which begins with the rows of a resumed run, if any."""
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


def _history(checkpoint: Path, done: int) -> list[dict[str, float]]:
    """Return the logged rows of the ``done`` steps of a run; [] if there are none.

    The checkpoint is stored in the folder of ``metrics.csv`` or in a subfolder of it.
    """
    folders = (checkpoint.parent, checkpoint.parent.parent)
    paths = [folder / name for folder in folders for name in (_KEPT, METRICS)]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        return []
    try:
        with found.open(newline="") as file:
            lines = list(csv.DictReader(file))
        rows = [{name: text for name, text in line.items() if text} for line in lines]
        # Row s describes step s, from 0. Integers stay integers, so that the text is the same.
        return [
            {name: int(text) if text.isdigit() else float(text) for name, text in row.items()}
            for row in rows
            if int(row["step"]) < done
        ]
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise UserError(f"{found} is damaged: move it away to begin a new history") from error


class SampleProgress(Callback):
    """One progress bar for the whole run, in samples, with the loss and scores under ``val/``."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None
        self.loss = torch.tensor(torch.nan)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None and trainer.is_global_zero:
            loader: Any = trainer.train_dataloader
            samples = len(batch[0])
            per_epoch = int(trainer.num_training_batches) * samples
            if not getattr(loader, "drop_last", True):  # the last batch may be smaller
                per_epoch = len(loader.sampler)
            done = per_epoch * trainer.current_epoch + batch_idx * samples
            total = per_epoch * (trainer.max_epochs or 1) * trainer.world_size
            self.bar = progress(
                desc=self.description,
                total=total,
                initial=done * trainer.world_size,
                unit=" samples",
                unit_scale=total > 10_000,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = outputs["loss"]
        if self.bar is not None:
            if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                self._show(trainer, self.bar)
            self.bar.update(len(batch[0]) * trainer.world_size)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Reading computes means over the processes: all must read, or the first one would hang.
        _ = trainer.progress_bar_metrics
        if self.bar is not None:
            self._show(trainer, self.bar)

    def _show(self, trainer: Trainer, bar: tqdm) -> None:
        """Show loss and scores; rarely, because reading the loss waits for the device."""
        shown = {"epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}"}
        shown["loss"] = f"{float(self.loss):.3f}"
        for name, score in trainer.progress_bar_metrics.items():
            if name.startswith("val/"):
                shown[name.removeprefix("val/")] = f"{float(score):.4g}"
        bar.set_postfix(shown, refresh=False)

    def on_train_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()
