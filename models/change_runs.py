"""Runs of a change detector: training and its checkpoints, resuming, and maps of whole images."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from models.change_detector import ChangeDetector
from utils.checkpoint import WholeCheckpointIO
from utils.launch import World
from utils.precision import autocast_type
from utils.training import run_trainer


def fit_detector(
    detector: ChangeDetector,
    data: LightningDataModule,
    trainer_arguments: Mapping[str, Any],
    *,
    folder: Path | None,
    origin: dict[str, Any],
    ckpt_path: Path | None,
) -> dict[str, float]:
    """Train a detector, and give it the weights of its best epoch if it keeps them.

    Args:
        detector: Trained in place.
        data: Its batches.
        trainer_arguments: Device, precision and epochs.
        folder: Where to write metrics.csv, last.ckpt after every epoch, and best.ckpt; None
            writes nothing.
        origin: Arguments, versions and commit of the run, written next to the checkpoints.
        ckpt_path: Checkpoint of the run to resume.

    Returns:
        Scores of the validation, of the best epoch or else of the last one.
    """
    trainer = run_trainer(
        "change detection", World(), trainer_arguments, folder, folder, origin, ckpt_path
    )
    with warnings.catch_warnings():  # a frozen encoder is meant to be
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        trainer.fit(detector, data, ckpt_path=ckpt_path, weights_only=True)
    if not detector.best_state:
        scores = sorted(trainer.callback_metrics.items())
        return {name: value.item() for name, value in scores if name.startswith("val/")}
    detector.load_best_state()
    if folder is not None:
        hyper_parameters = dict(detector.hparams) | {"threshold": detector.threshold}
        content = {"hyper_parameters": hyper_parameters, "state_dict": detector.state_dict()}
        WholeCheckpointIO().save_checkpoint(content, folder / "best.ckpt")
    return {
        "val/f1": detector.best_f1,
        "val/threshold": detector.threshold,
        "val/epoch": detector.best_epoch,
    }


@torch.inference_mode()
def predict_changes(
    detector: ChangeDetector,
    pairs: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    precision: str,
) -> list[Tensor]:
    """Return the probability of change of every pixel, each image whole and at once.

    Args:
        detector: Moved to the device, used in eval mode.
        pairs: Both dates, uint8, (C, H, W) each, of any size.
        device: Where to compute.
        precision: A key of ``PRECISIONS``.

    Returns:
        float32 on the CPU, shape (H, W) each.
    """
    dtype = autocast_type(precision)
    detector = detector.to(device).eval()
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        return [
            detector(*(date[None].to(device) for date in pair))[0].sigmoid().cpu() for pair in pairs
        ]
