"""Classifiers that are trained through an encoder rather than on its cached features.

Shapes: B pictures per step, N pictures of a set, S repetitions, C classes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler

from models.backbones import Encoder
from models.best_epoch import BestEpoch
from models.linear_probe import Recipe, Score
from models.probes import Predictions
from utils.checkpoint import WholeCheckpointIO, check_same_run, read_checkpoint
from utils.data import SeededOrder, SeededSampler, epoch_of, epoch_seed
from utils.distributed import copy_from_first, gather
from utils.errors import UserError
from utils.probe_data import ProbeData


class SSLFineTuner(LightningModule):
    """An encoder with a linear classifier, both of which are trained, or the classifier alone.

    Batches are (uint8 pictures, targets, rows in the data set). Validation scores the whole set.

    Args:
        encoder: Trained in place. In checkpoints it is named ``encoder_q``, as in those of a
            pre-training, so that the same code reads both.
        num_classes: Outputs of the classifier.
        normalize: Turns uint8 pictures into the encoder's inputs.
        multi_label: Whether a sample has any number of labels rather than one class.
        score: Score of the validation set: takes targets and logits, larger is better.
        learning_rate: Learning rate of Adam at the start.
        seed: Seed of dropout, which is drawn from (seed, epoch) so that a run can be resumed.
        hyper_parameters: Further plain values that describe the run, for its checkpoints.
        milestones: Epochs after which the learning rate is divided by ten.
        dropout: See ``Recipe``, also for the next two.
        freeze_backbone: Whether no gradient reaches the encoder.
        encoder_in_train_mode: Whether its batch norm uses the statistics of batches.

    Attributes:
        best: The epoch with the best score so far, with the tensors of this module.
        test_logits: Logits of the whole set that ``Trainer.test`` has seen, in order of its rows.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        normalize: Callable[[Tensor], Tensor],
        multi_label: bool,
        score: Score,
        learning_rate: float,
        seed: int = 0,
        hyper_parameters: Mapping[str, Any] | None = None,
        milestones: Sequence[int] = (),
        dropout: float = 0.0,
        freeze_backbone: bool = False,
        encoder_in_train_mode: bool = True,
    ) -> None:
        super().__init__()
        fixed: dict[str, Any] = {"base_encoder": encoder.architecture, "seed": seed}
        fixed |= {"milestones": list(milestones), "learning_rate": learning_rate}
        self.save_hyperparameters({**fixed, **(hyper_parameters or {})})
        self.encoder_q = encoder.requires_grad_(not freeze_backbone)
        self.classifier = nn.Linear(encoder.num_features, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.normalize = normalize
        self.multi_label = multi_label
        self.score = score
        self.learning_rate = learning_rate
        self.seed = seed
        self.milestones = milestones
        self.encoder_in_train_mode = encoder_in_train_mode
        self.best = BestEpoch()
        self.validation: list[tuple[Tensor, Tensor, Tensor]] = []
        self.test_logits = torch.empty(0, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures: uint8, (B, C, H, W) -> logits, float32, (B, num_classes)."""
        features = self.encoder_q(self.normalize(pictures))
        return self.classifier(self.dropout(features)).float()

    def on_train_epoch_start(self) -> None:
        self.encoder_q.train(self.encoder_in_train_mode)

    def on_train_batch_start(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        if batch_idx == 0:  # after the loader has drawn its own numbers
            torch.manual_seed(epoch_seed(self.seed, self.current_epoch, self.global_rank))

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        pictures, targets = batch[:2]
        logits = self(pictures)
        if self.multi_label:
            loss = F.multilabel_soft_margin_loss(logits, targets.float())
        else:
            loss = F.cross_entropy(logits, targets)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        # Each process has its own running statistics: the encoder of the first one is scored.
        copy_from_first(self.encoder_q.buffers())

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        pictures, targets, rows = batch
        self.validation.append((rows, targets, self(pictures)))

    def on_validation_epoch_end(self) -> None:
        targets, logits = self.validation_outputs()
        score = self.score(targets, logits)
        self.log("val/score", score, prog_bar=True, sync_dist=True)
        self.best.update(score, self.current_epoch + 1, self.state_dict())

    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step

    def on_test_epoch_end(self) -> None:
        self.test_logits = self.validation_outputs()[1]

    def validation_outputs(self) -> tuple[Tensor, Tensor]:
        """Return targets and logits, each row once and in order, and delete them.

        The sampler repeats rows so that all processes have the same number of them.

        Raises:
            UserError: Logits are not finite.
        """
        parts = [torch.cat(column) for column in zip(*self.validation, strict=True)]
        self.validation.clear()
        rows, targets, logits = (gather(part).cpu() for part in parts)
        order = rows.argsort(stable=True)
        order = order[rows[order].diff(prepend=rows.new_tensor([-1])) > 0]
        if not logits.isfinite().all():
            raise UserError(
                f"scores are not finite after epoch {self.current_epoch + 1}: start again with a "
                "lower learning rate, or with --precision 32-true"
            )
        return targets[order], logits[order]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = dict(vars(self.best))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best = BestEpoch(**checkpoint["best"])

    def configure_optimizers(self) -> tuple[list[Adam], list[MultiStepLR]]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = Adam(trained, lr=self.learning_rate)
        return [optimizer], [MultiStepLR(optimizer, list(self.milestones))]


@dataclass(frozen=True)
class FineTuning:
    """Trains a classifier on a copy of the encoder, and the copy unless it is frozen.

    ``make_trainer`` returns the Lightning trainer of a repetition; it takes the number of epochs,
    the folder to write into or None, ``seed`` and ``train_frac``.
    """

    encoder: Encoder  # none of its tensors changes
    data: ProbeData
    seeds: Sequence[int]  # of classifier, order and dropout of each repetition
    recipe: Recipe
    make_trainer: Callable[..., Trainer]
    # Returns the features of the last held-out set, for the first repetition's encoder.
    embed: Callable[[Encoder], Tensor] | None = None
    # Plain values that a run must share with one that it resumes.
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    resumed: Path | None = None  # checkpoint of the run to resume

    @property
    def held_out(self) -> list[str]:
        """Splits to score; what trains through a frozen encoder is the original's, without test."""
        return ["val"] if self.recipe.freeze_backbone else self.data.held_out

    def check_resumable(self, draws: Mapping[float, Sequence[Tensor]]) -> None:
        """Refuse to resume another run than that of the first share and seed."""
        if self.resumed is None:
            return
        frac, rows = next(iter(draws.items()))
        own = self._classifier(self.seeds[0], rows[0], frac).hparams
        check_same_run(self.resumed, own, self.recipe.max_epochs, "finetune_epochs")
        if own["milestones"] != self.recipe.falls:
            epochs = " and ".join(map(str, own["milestones"]))
            print(f"the learning rate fell after epochs {epochs} and stays there", file=sys.stderr)

    def __call__(
        self, rows: Sequence[Tensor], frac: float = 1.0, folder: Path | None = None
    ) -> Predictions:
        """Train and score.

        Args:
            rows: Labelled rows of the train split for each repetition.
            frac: Their share of all labels.
            folder: Folder in which each repetition has a folder ``seed=S``; None writes nothing.
        """
        recipe, checkpoints = self.recipe, []
        scores: dict[str, list[Tensor]] = {split: [] for split in self.held_out}
        epochs: list[float] = []
        embeddings: Tensor | None = None
        for seed, chosen in zip(self.seeds, rows, strict=True):
            module = self._classifier(seed, chosen, frac)
            own_folder = folder and folder / f"seed={seed}"
            trainer = self.make_trainer(recipe.max_epochs, own_folder, seed=seed, train_frac=frac)
            for split, logits in self._train(trainer, module, chosen).items():
                scores[split].append(logits)
            if own_folder is not None:
                name = "best.ckpt" if recipe.select_epoch else "last.ckpt"
                checkpoints.append(own_folder / "checkpoints" / name)
                if recipe.select_epoch and trainer.is_global_zero:
                    _save_best(module, checkpoints[-1])
            epochs.append(module.best.epoch if recipe.select_epoch else recipe.max_epochs)
            if self.embed is not None and embeddings is None:
                embeddings = self.embed(module.encoder_q)
        stacked = {split: torch.stack(logits) for split, logits in scores.items()}
        first = checkpoints[0] if checkpoints else None
        return Predictions(stacked, {"best_epochs": epochs}, embeddings, checkpoint=first)

    def _classifier(self, seed: int, rows: Tensor, frac: float) -> SSLFineTuner:
        """Put a new classifier on a copy of the encoder, and seed the generators."""
        seed_everything(seed, verbose=False)
        recipe, data, milestones = self.recipe, self.data, self.recipe.falls
        if self.resumed is not None and recipe.milestones is None:
            # Those of the run's first number of epochs, so that it can be extended.
            saved = read_checkpoint(self.resumed)["hyper_parameters"]
            milestones = saved.get("milestones", milestones)
        encoder = deepcopy(self.encoder).train()
        if not recipe.freeze_backbone:
            # Faster; and the same in all processes, though only the first has computed features.
            encoder.to(memory_format=torch.channels_last)
        of_run = {
            "train_frac": frac,
            "num_labelled": len(rows),
            "classes": list(data.classes),
            "input_spec": data.transform.spec.to_dict(),
            "input_transform": data.transform.fingerprint(),
        }
        return SSLFineTuner(
            encoder,
            len(data.classes),
            normalize=data.transform.normalize,
            multi_label=data.is_multi_label,
            score=data.score,
            learning_rate=recipe.learning_rate,
            seed=seed,
            hyper_parameters={**self.hyper_parameters, **of_run},
            milestones=milestones,
            dropout=recipe.dropout,
            freeze_backbone=recipe.freeze_backbone,
            encoder_in_train_mode=recipe.encoder_in_train_mode,
        )

    def _train(self, trainer: Trainer, module: SSLFineTuner, rows: Tensor) -> dict[str, Tensor]:
        """Return the logits of the held-out splits, (N, C), by the epoch that the recipe keeps."""
        splits, held_out = self.data.splits, {}
        train = self._train_loader(trainer, splits["train"].take(rows), module.seed)
        for split in self.held_out:
            pictures = splits[split].take()
            # It repeats some rows, so that all processes have as many.
            share: DistributedSampler[Any] = DistributedSampler(
                pictures, trainer.world_size, trainer.global_rank, shuffle=False
            )
            held_out[split] = self._loader(pictures, share)
        trainer.fit(module, train, held_out["val"], ckpt_path=self.resumed, weights_only=True)
        if self.recipe.select_epoch:
            module.load_state_dict(module.best.state)
        logits = {}
        for split, loader in held_out.items():
            trainer.test(module, loader, verbose=False)
            logits[split] = module.test_logits
        return logits

    def _train_loader(self, trainer: Trainer, data: Dataset[Any], seed: int) -> DataLoader[Any]:
        """Load this process's share of an order that is a function of (seed, epoch)."""
        recipe, count = self.recipe, len(data)  # type: ignore[arg-type]  # has no __len__
        rank, size = trainer.global_rank, trainer.world_size
        keys = SeededSampler(
            count, seed, epoch=lambda: epoch_of(trainer), rank=rank, world_size=size
        )
        order = SeededOrder(keys) if recipe.seeded_order else RandomSampler(data)  # type: ignore[arg-type]
        # Batch norm cannot normalise a batch of one picture.
        loader = self._loader(data, order, recipe.drop_last or len(keys) % recipe.batch_size == 1)
        if not len(loader):
            raise UserError(
                f"{count} labelled pictures are too few for {size} processes and batches of "
                f"{recipe.batch_size}: use more labels, or one process and smaller batches"
            )
        return loader

    def _loader(
        self, data: Dataset[Any], sampler: Sampler[Any], drop_last: bool = False
    ) -> DataLoader[Any]:
        workers = self.data.num_workers
        return DataLoader(
            data,
            self.recipe.batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=drop_last,
            persistent_workers=workers > 0,
        )


def _save_best(module: SSLFineTuner, path: Path) -> None:
    """Write a module that has the weights of its best epoch."""
    described = {**module.hparams, "best_epoch": module.best.epoch}
    content = {"hyper_parameters": described, "state_dict": module.state_dict()}
    WholeCheckpointIO().save_checkpoint(content, path)
