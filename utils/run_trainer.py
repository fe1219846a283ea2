"""The Lightning trainer of a downstream run: what it writes, and how it shows its progress."""

import csv
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

from utils.callbacks import EndTogether, SampleProgress, SaveCheckpoints
from utils.checkpoint import read_checkpoint
from utils.cli import trainer_kwargs
from utils.launch import World, launch_kwargs
from utils.report import provenance

METRICS = "metrics.csv"  # Lightning's name
_KEPT = ".metrics.csv.kept"  # while the file is written again


def csv_logger(folder: Path, resumed: Path | None = None) -> CSVLogger:
    """Log to ``metrics.csv`` in a folder.

    Args:
        folder: Where to write.
        resumed: Checkpoint of the run that is resumed. The file begins with the rows of this run up
            to the checkpoint, so that it is the one history of the whole run.
    """
    logger = CSVLogger(folder, name="", version="")
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    if resumed is None or rank != 0:  # only the first process writes, and replaces
        return logger
    rows = _history(resumed)
    path, kept = folder / METRICS, folder / _KEPT
    # Lightning deletes it, and a kill before it is whole again must lose nothing.
    if path.exists() and not kept.exists():
        path.replace(kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        for row in rows:
            logger.experiment.log_metrics(row, step=int(row["step"]))
    logger.save()
    kept.unlink(missing_ok=True)
    return logger


def _history(checkpoint: Path) -> list[dict[str, float]]:
    """Return the logged rows of a run, those after the checkpoint left out; [] if there are none.

    The checkpoint lies in the folder of ``metrics.csv``, or in a folder of its own in it.
    """
    folders = (checkpoint.parent, checkpoint.parent.parent)
    paths = [folder / name for folder in folders for name in (_KEPT, METRICS)]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        return []
    with found.open(newline="") as file:
        rows = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]
    done = read_checkpoint(checkpoint)["global_step"]
    # Row s describes step s, counted from 0. Integers stay integers: the text must be the same.
    return [
        {name: int(text) if text.isdigit() else float(text) for name, text in row.items()}
        for row in rows
        if int(row["step"]) < done
    ]


def run_trainer(
    description: str,
    world: World,
    arguments: Mapping[str, Any],
    folder: Path | None = None,
    checkpoints: Path | None = None,
    origin: dict[str, Any] | None = None,
    resumed: Path | None = None,
) -> Trainer:
    """Configure a trainer that takes the order of the samples as the loader gives it.

    Args:
        description: Of the work, for the progress bar.
        world: Processes that train together.
        arguments: Device, precision, epochs.
        folder: Where to write metrics.csv; None writes nothing.
        checkpoints: Where to write last.ckpt after every epoch; None writes none.
        origin: Arguments, versions and commit of the run, written next to the checkpoints.
        resumed: Checkpoint of the run to resume, whose metrics.csv is continued.
    """
    callbacks: list[Callback] = [EndTogether(), SampleProgress(description)]
    if checkpoints is not None:
        callbacks.append(SaveCheckpoints(checkpoints, origin or {}))
    return Trainer(
        **{**arguments, **launch_kwargs(world)},
        logger=False if folder is None else csv_logger(folder, resumed),
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
    seed: int,
    train_frac: float,
    val_every_n_epochs: int = 1,
) -> Trainer:
    """Configure the trainer of one repetition; its checkpoints are kept in the folder."""
    arguments = trainer_kwargs(args)
    arguments |= {"max_epochs": max_epochs, "check_val_every_n_epoch": val_every_n_epochs}
    checkpoints = folder and folder / "checkpoints"
    origin = provenance(of_repetition(args, seed, train_frac))
    resumed = args.resume_from_checkpoint
    return run_trainer(description, world, arguments, folder, checkpoints, origin, resumed)


def of_repetition(args: Namespace, seed: int, train_frac: float) -> Namespace:
    """Return the flags that repeat one training of a run, for they resume it."""
    return Namespace(**vars(args) | {"seed": seed, "num_seeds": 1, "train_frac": [train_frac]})
