"""The Lightning trainer of a downstream run: what it writes, and how it shows its progress."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from utils.callbacks import EndTogether, SampleProgress, SaveCheckpoints
from utils.cli import trainer_kwargs
from utils.launch import World, launch_kwargs
from utils.report import provenance


def run_trainer(
    description: str,
    world: World,
    arguments: Mapping[str, Any],
    folder: Path | None = None,
    checkpoints: Path | None = None,
    origin: dict[str, Any] | None = None,
) -> Trainer:
    """Configure a trainer that takes the order of the samples as the loader gives it.

    Args:
        description: Of the work, for the progress bar.
        world: Processes that train together.
        arguments: Device, precision, epochs.
        folder: Where to write metrics.csv; None writes nothing.
        checkpoints: Where to write last.ckpt after every epoch; None writes none.
        origin: Arguments, versions and commit of the run, written beside the checkpoints.
    """
    callbacks: list[Callback] = [EndTogether(), SampleProgress(description)]
    if checkpoints is not None:
        callbacks.append(SaveCheckpoints(checkpoints, origin or {}))
    return Trainer(
        **arguments | launch_kwargs(world),
        logger=False if folder is None else CSVLogger(folder, name="", version=""),
        callbacks=callbacks,
        enable_checkpointing=checkpoints is not None,
        enable_progress_bar=False,  # ours counts samples
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ours draws from (seed, epoch)
    )


def make_trainer(
    args: Namespace,
    world: World,
    description: str,
    max_epochs: int,
    folder: Path | None,
    *,
    val_every_n_epochs: int = 1,
) -> Trainer:
    """Configure a trainer by the flags; a fine-tuning keeps its checkpoints in the folder."""
    arguments = trainer_kwargs(args) | {
        "max_epochs": max_epochs,
        "check_val_every_n_epoch": val_every_n_epochs,
    }
    checkpoints = folder and folder / "checkpoints"
    return run_trainer(description, world, arguments, folder, checkpoints, provenance(args))
