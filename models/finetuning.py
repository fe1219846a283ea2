"""Fine-tunings of an encoder: one per repetition, their checkpoints, and how one is resumed.

Shapes: N pictures, S repetitions, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import Dataset

from models.backbones import Encoder
from models.probes import HELD_OUT, Predictions, accuracy
from models.ssl_finetuner import SSLFineTuner, finetune
from utils.checkpoint import WholeCheckpointIO, check_same_run
from utils.input_spec import InputTransform


class Task(Protocol):
    """What fine-tuning needs to know of a data set and of the encoder to judge."""

    @property
    def encoder(self) -> Encoder:
        """The encoder; no tensor of it changes."""

    @property
    def transform(self) -> InputTransform:
        """From the pictures to its inputs."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""

    def pictures(self, split: str, rows: Tensor | None = None) -> Dataset[Any]:
        """Return the (picture, target, position) of a split, or of some rows of it."""

    def recipe(self, max_epochs: int) -> dict[str, Any]:
        """Return those arguments of ``SSLFineTuner`` that the data set decides."""


class MakeTrainer(Protocol):
    """Builds the trainer of one training, of one or several processes."""

    def __call__(
        self, max_epochs: int, folder: Path | None, *, seed: int, train_frac: float
    ) -> Trainer:
        """Return a new one, which writes into the folder, or nothing."""


def make_classifier(
    task: Task,
    seed: int,
    *,
    score: Callable[[Tensor, Tensor], float],
    max_epochs: int,
    learning_rate: float,
    freeze_backbone: bool = False,
    hyper_parameters: Mapping[str, Any] | None = None,
) -> SSLFineTuner:
    """Put a classifier on a copy of the encoder, and seed what follows.

    Arguments are those of ``FineTuning`` and of ``SSLFineTuner``.
    """
    seed_everything(seed, verbose=False)
    encoder = deepcopy(task.encoder).train()
    if not freeze_backbone:
        # Faster; and the same in all processes, though the first one has computed features.
        encoder.to(memory_format=torch.channels_last)
    return SSLFineTuner(
        encoder,
        len(task.classes),
        normalize=task.transform.normalize,
        score=score,
        learning_rate=learning_rate,
        freeze_backbone=freeze_backbone,
        seed=seed,
        hyper_parameters={
            **(hyper_parameters or {}),
            "classes": list(task.classes),
            "input_spec": task.transform.spec.to_dict(),
            "input_transform": task.transform.fingerprint(),
        },
        **task.recipe(max_epochs),
    )


@dataclass(frozen=True)
class FineTuning:
    """Fine-tunes the encoder per repetition; the score on val chooses its epoch.

    Attributes:
        task: Encoder and data.
        seeds: Of classifier, order and dropout, one per repetition.
        make_trainer: Called once per repetition, in each process.
        max_epochs: Passes over the labelled rows.
        batch_size: Pictures per step and process.
        learning_rate: Of Adam.
        score: Takes targets and logits of val, larger is better.
        held_out: Splits to score.
        num_workers: Loader processes.
        select_epoch: Whether val chooses an epoch; else the last one is kept.
        drop_last: Whether training leaves out a last batch that is not full.
        embed: Returns the features of the test set by the first repetition's encoder.
        hyper_parameters: Plain values that a run must share with one that it continues.
        resumed: Checkpoint of the run to continue.
    """

    task: Task
    seeds: Sequence[int]
    make_trainer: MakeTrainer
    max_epochs: int
    batch_size: int
    learning_rate: float
    score: Callable[[Tensor, Tensor], float] = accuracy
    held_out: Sequence[str] = HELD_OUT
    num_workers: int = 0
    select_epoch: bool = True
    drop_last: bool = False
    embed: Callable[[Encoder], Tensor] | None = None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    resumed: Path | None = None

    def check_resumable(self, draws: Mapping[float, Sequence[Tensor]]) -> None:
        """Refuse to go on from another run than that of the first share and seed."""
        if self.resumed is not None:
            frac, rows = next(iter(draws.items()))
            own = self._classifier(self.seeds[0], rows[0], frac).hparams
            check_same_run(self.resumed, own, self.max_epochs)

    def __call__(
        self, rows: Sequence[Tensor], frac: float = 1.0, folder: Path | None = None
    ) -> Predictions:
        """Train and score.

        Args:
            rows: Labelled rows of the train split for each repetition.
            frac: Their share of all labels.
            folder: Where each repetition has a folder ``seed=S``; None writes nothing.
        """
        scores: dict[str, list[Tensor]] = {split: [] for split in self.held_out}
        epochs: list[float] = []
        embeddings: Tensor | None = None
        for seed, chosen in zip(self.seeds, rows, strict=True):
            module = self._classifier(seed, chosen, frac)
            trainer = self.make_trainer(
                self.max_epochs, folder and folder / f"seed={seed}", seed=seed, train_frac=frac
            )
            logits = self._train(trainer, module, chosen, folder and folder / f"seed={seed}")
            for split, values in logits.items():
                scores[split].append(values)
            epochs.append(module.best_epoch if self.select_epoch else self.max_epochs)
            if self.embed is not None and embeddings is None:
                embeddings = self.embed(module.encoder_q)
        stacked = {split: torch.stack(logits) for split, logits in scores.items()}
        name = "best.ckpt" if self.select_epoch else "last.ckpt"
        first = folder and folder / f"seed={self.seeds[0]}" / "checkpoints" / name
        return Predictions(stacked, {"best_epochs": epochs}, embeddings, checkpoint=first)

    def _classifier(self, seed: int, rows: Tensor, frac: float) -> SSLFineTuner:
        of_share = {"train_frac": frac, "num_labelled": len(rows)}
        return make_classifier(
            self.task,
            seed,
            score=self.score,
            max_epochs=self.max_epochs,
            learning_rate=self.learning_rate,
            hyper_parameters={**self.hyper_parameters, **of_share},
        )

    def _train(
        self, trainer: Trainer, module: SSLFineTuner, rows: Tensor, folder: Path | None
    ) -> dict[str, Tensor]:
        """Return the logits of the held-out splits; the best epoch is written, if it was chosen."""
        data = {"train": self.task.pictures("train", rows)}
        data |= {split: self.task.pictures(split) for split in self.held_out}
        logits = finetune(
            trainer,
            module,
            data,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            select_epoch=self.select_epoch,
            drop_last=self.drop_last,
            ckpt_path=self.resumed,
        )
        if folder is not None and self.select_epoch and trainer.is_global_zero:
            described = {**module.hparams, "best_epoch": module.best_epoch}
            content = {"hyper_parameters": described, "state_dict": module.state_dict()}
            WholeCheckpointIO().save_checkpoint(content, folder / "checkpoints" / "best.ckpt")
        return logits
