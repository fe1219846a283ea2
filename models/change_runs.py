"""Run change detectors: build, train with checkpoints, resume, and classify whole images."""

import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.backbones import Encoder
from models.change_detector import Batch, ChangeDetector
from models.change_scores import THRESHOLDS, count_changes, summarise_cities
from models.results import summarise
from utils.checkpoint import WholeCheckpointIO, check_not_shorter, check_same_run
from utils.cli import trainer_kwargs
from utils.data import InfiniteDataLoader, SeededSampler, batches_done, epoch_of
from utils.history import last_values
from utils.launch import World
from utils.precision import autocast_type
from utils.report import provenance
from utils.restored import fit
from utils.resume import newest_resumable
from utils.run_log import METRICS
from utils.training import of_repetition, run_trainer


class Outcome(NamedTuple):
    """What one detector found."""

    threshold: float  # probability from which a pixel counts as changed
    validation: dict[str, float]  # scores
    probabilities: list[Tensor]  # of change in every test image, float32, (H, W) each
    counts: Tensor  # pixels found, false and missed in every test image, int64, (N, 3)


@dataclass(frozen=True)
class ChangeTask:
    """What all repetitions of an experiment share.

    Under ``--protocol paper`` detectors are those of the original, last batches that are not full
    are left out, and validation sees batches of tiles.
    """

    args: Namespace  # flags of the run
    encoder: Encoder  # copied by each detector
    normalize: Callable[[Tensor], Tensor]  # uint8 pictures to the encoder's inputs
    hyper_parameters: dict[str, Any]  # for checkpoints, so that only the same run continues them

    @property
    def as_original(self) -> bool:
        return bool(self.args.protocol == "paper")

    def build(self, seed: int, frac: float) -> ChangeDetector:
        """Put a new decoder on a copy of the encoder, for one repetition.

        Args:
            seed: Seed of the decoder's weights and of its dropout.
            frac: Share of the training tiles, in 0..1, which the checkpoints record.
        """
        seed_everything(seed, verbose=False)
        return ChangeDetector(
            deepcopy(self.encoder),
            normalize=self.normalize,
            hyper_parameters=self.hyper_parameters | {"seed": seed, "train_frac": frac},
            seed=seed,
            learning_rate=self.args.learning_rate,
            pos_weight=self.hyper_parameters["pos_weight"],
            finetune_backbone=self.args.finetune_backbone,
            as_original=self.as_original,
        )

    def check_resumable(self) -> None:
        """Refuse a checkpoint of another run than the one to resume."""
        path = self.args.resume_from_checkpoint
        if path is not None:
            own = self.build(self.args.seed, self.args.train_frac[0]).hparams
            check_same_run(path, own, self.args.max_epochs)

    def _newest(self, detector: ChangeDetector, folder: Path | None) -> Path | None:
        """Return the checkpoint that a repetition resumes; a finished one is only tested again."""
        if self.args.resume != "auto" or folder is None:
            return self.args.resume_from_checkpoint
        found = newest_resumable(folder, lambda path: check_same_run(path, detector.hparams, None))
        if found is not None:
            check_not_shorter(found, self.args.max_epochs)
        return found

    def run(
        self,
        seed: int,
        frac: float,
        train: Dataset[Batch],
        val: Dataset[Batch],
        test: Sequence[Batch],
        folder: Path | None,
    ) -> Outcome:
        """Train a detector, and find the changes of whole images.

        Args:
            seed: Seed of the repetition.
            frac: Share of the training set that the tiles are, for the checkpoints.
            train: Tiles with keys (epoch, index).
            val: Whole images; tiles if the validation is as in the original.
            test: Whole images.
            folder: Where to write metrics.csv, last.ckpt after every epoch, and best.ckpt; None
                writes nothing.
        """
        detector = self.build(seed, frac)
        validation = self._fit(detector, train, val, folder, frac)
        device, dtype = "cuda" if self.args.gpus else "cpu", autocast_type(self.args.precision)
        with torch.autocast(device, dtype, enabled=dtype is not None):
            probabilities = _find_changes(detector.to(device), [sample[:2] for sample in test])
        column = THRESHOLDS.index(detector.threshold)
        counts = [
            count_changes(probability.flatten(), mask.flatten())[:, column]
            for probability, (_, _, mask, _) in zip(probabilities, test, strict=True)
        ]
        return Outcome(detector.threshold, validation, probabilities, torch.stack(counts))

    def _fit(
        self,
        detector: ChangeDetector,
        train: Dataset[Batch],
        val: Dataset[Batch],
        folder: Path | None,
        frac: float,
    ) -> dict[str, float]:
        """Train in place and return the validation of the best epoch, or else of the last one."""
        args, resumed = self.args, self._newest(detector, folder)
        origin = provenance(of_repetition(args, detector.seed, frac))
        arguments = trainer_kwargs(args)
        trainer = run_trainer(
            *("change detection", World(), arguments, folder, folder, origin, resumed),
            every_minutes=args.save_every_minutes,
            loggers=args.logger,
        )
        loader = self._load(train, trainer, detector.seed, args.num_workers)
        if self.as_original:
            val_loader = self._load(val, trainer, detector.seed, 0)
        else:
            val_loader = DataLoader(val, batch_size=1)  # images differ in size
        with warnings.catch_warnings():  # a frozen encoder is intended
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
            fit(trainer, detector, loader, val_loader, resumed=resumed)
        best, threshold = detector.best, detector.threshold
        if not best.epoch:
            found = {name: value.item() for name, value in trainer.callback_metrics.items()}
            found = last_values(folder / METRICS) if folder and trainer.loggers else found
            return {name: value for name, value in sorted(found.items()) if name.startswith("val/")}
        detector.load_best_state()
        if folder is not None:
            hyper_parameters = {**detector.hparams, "threshold": threshold}
            content = {"hyper_parameters": hyper_parameters, "state_dict": detector.state_dict()}
            WholeCheckpointIO().save_checkpoint(content, folder / "best.ckpt")
        return {"val/f1": best.score, "val/threshold": threshold, "val/epoch": best.epoch}

    def _load(
        self, tiles: Dataset[Batch], trainer: Trainer, seed: int, num_workers: int
    ) -> DataLoader[Batch]:
        count: int = len(tiles)  # type: ignore[arg-type]  # Dataset does not declare it
        # A last batch of one small tile would have no deviation to normalise by.
        is_one_left = count > 1 and count % self.args.batch_size == 1

        def done() -> int:
            return batches_done(trainer) * self.args.batch_size

        return InfiniteDataLoader(
            tiles,
            self.args.batch_size,
            sampler=SeededSampler(count, seed, epoch=lambda: epoch_of(trainer), done=done),
            num_workers=num_workers,
            drop_last=self.as_original or is_one_left,
            pin_memory=torch.cuda.is_available(),
        )


@torch.inference_mode()
def _find_changes(detector: ChangeDetector, pairs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the probability of change of every pixel: float32 on the CPU, shape (H, W).

    Each image, of any size, is taken whole; ``pairs`` are both dates, uint8, (C, H, W) each.
    """
    detector.eval()
    return [
        detector(*(date[None].to(detector.device) for date in pair))[0].sigmoid().cpu()
        for pair in pairs
    ]


def summarise_outcomes(
    outcomes: Sequence[Outcome], cities: Sequence[str], seed: int
) -> dict[str, Any]:
    """Return validation and test scores over the repetitions.

    Args:
        outcomes: One per repetition.
        cities: Names of the test images.
        seed: Seed of the bootstrap.
    """
    metrics: dict[str, Any] = {}
    for name in outcomes[0].validation:
        metrics |= summarise(name, [outcome.validation[name] for outcome in outcomes])
    counts = torch.stack([outcome.counts for outcome in outcomes])
    return metrics | summarise_cities(counts, cities, seed)
