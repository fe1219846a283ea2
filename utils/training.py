"""Training with Lightning: the trainer of every script, its progress bar, checkpoints and end."""

import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from tqdm import tqdm

from utils.checkpoint import read_checkpoint
from utils.cli import TRACKERS, trainer_kwargs
from utils.end_together import EndTogether
from utils.history import rows_before
from utils.launch import World, launch_kwargs, planned_world
from utils.precision import resolve_precision
from utils.progress import progress
from utils.report import provenance
from utils.run_log import RunLog
from utils.save_checkpoints import SaveCheckpoints
from utils.trackers import Tracker


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
    on_save_error: str = "stop",
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[str] = ("csv",),
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
        on_save_error: ``stop`` or ``continue``, if a checkpoint or a log cannot be written.
        callbacks: Further callbacks.
        loggers: Values of ``--logger``: where values are logged besides metrics.csv, or none.
    """
    together = EndTogether()
    added: list[Callback] = [together, SampleProgress(description), *callbacks]
    if checkpoints is not None:
        added.append(
            SaveCheckpoints(
                *(checkpoints, origin or {}, resumed, every_n_epochs, every_minutes, on_save_error)
            )
        )
    log: Logger | None = None
    if folder is not None and "none" not in loggers:
        checkpoint = read_checkpoint(resumed) if resumed else {}
        done: int | None = checkpoint.get("global_step")
        is_first = world.rank == 0  # it alone writes
        rows = rows_before(resumed, checkpoint) if resumed and is_first else ()
        flags = (origin or {}).get("arguments", {})
        chosen = [name for name in TRACKERS if name in loggers and is_first]
        log = RunLog(
            *(folder, rows),
            tensorboard="tensorboard" in loggers,
            trackers=[Tracker(name, folder, flags, rows) for name in chosen],
            first_step=done,
            on_error=on_save_error,
        )
    trainer = Trainer(
        **{"log_every_n_steps": 1, **arguments, **launch_kwargs(world)},
        logger=log or False,
        callbacks=added,
        enable_checkpointing=checkpoints is not None,
        enable_progress_bar=False,  # ours counts samples
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ours draws from (seed, epoch)
    )
    # Lightning answers SIGTERM by a message that the other processes may never receive.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    # The order of a sampler begins where the checkpoint ends; Lightning expects that of the loader.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
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
    resumed: Path | None = None,
    is_resumable: bool = True,
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
        resumed: Checkpoint of this repetition to resume; None trains from the start.
        is_resumable: Whether it resumes within an epoch, and so saves by time and at signals.
        val_every_n_epochs: Epochs between validations.
    """
    arguments = trainer_kwargs(args)
    arguments |= {"max_epochs": max_epochs, "check_val_every_n_epoch": val_every_n_epochs}
    checkpoints = folder and folder / "checkpoints"
    origin = provenance(of_repetition(args, seed, train_frac))
    minutes = args.save_every_minutes if is_resumable else None
    return run_trainer(
        *(description, world, arguments, folder, checkpoints, origin, resumed),
        every_minutes=minutes,
        loggers=args.logger,
    )


def of_repetition(args: Namespace, seed: int, train_frac: float) -> Namespace:
    """Return the flags of one training of a run, which resume it alone.

    Args:
        args: Flags of the run.
        seed: Seed of the repetition.
        train_frac: Its share of the labels, in 0..1.
    """
    return Namespace(**vars(args) | {"seed": seed, "num_seeds": 1, "train_frac": [train_frac]})


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
            if trainer.max_steps >= 0:  # ends within an epoch, as the steps of --dry_run do
                total = min(total, trainer.max_steps * samples * trainer.world_size)
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
