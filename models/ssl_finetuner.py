"""Classifiers that are trained through an encoder rather than on its cached features."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from models.backbones import Encoder
from utils.data import SeededOrder, SeededSampler, epoch_of, epoch_seed
from utils.distributed import copy_from_first, gather
from utils.errors import UserError


class SSLFineTuner(LightningModule):
    """An encoder with a linear classifier on top, trained together or the classifier alone.

    Validation looks at the whole set and keeps the weights of the best epoch, in ``best_state``.
    ``Trainer.test`` leaves the logits of the whole set, in the order of its rows, in
    ``test_logits``. Batches are (uint8 pictures, targets, rows in the data set).

    Args:
        encoder: Trained in place. In checkpoints it has the name of a pre-training's encoder, so
            that what reads the one reads the other.
        num_classes: Outputs of the classifier.
        normalize: Turns uint8 pictures into the encoder's inputs.
        multi_label: Whether a sample has any number of labels rather than one class.
        score: Of the validation set: takes targets and logits, larger is better.
        learning_rate: Of Adam.
        seed: Of order and dropout, which every epoch begins anew, so that it can be resumed.
        hyper_parameters: Further plain values that describe the run, for its checkpoints.
        milestones: Epochs after which the rate is divided by ten.
        dropout: Share of the features that are left out in training (0.2 in the original's
            BigEarthNet).
        freeze_backbone: Whether no gradient reaches the encoder.
        encoder_in_train_mode: Whether its batch norm uses, and learns, the statistics of batches
            while the classifier trains; in the original yes on EuroSAT, no on BigEarthNet.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        normalize: Callable[[Tensor], Tensor],
        multi_label: bool,
        score: Callable[[Tensor, Tensor], float],
        learning_rate: float,
        seed: int = 0,
        hyper_parameters: Mapping[str, Any] | None = None,
        milestones: Sequence[int] = (),
        dropout: float = 0.0,
        freeze_backbone: bool = False,
        encoder_in_train_mode: bool = True,
    ) -> None:
        super().__init__()
        described: dict[str, Any] = {
            "base_encoder": encoder.architecture,
            "milestones": list(milestones),
        }
        described |= {"learning_rate": learning_rate, "seed": seed, **(hyper_parameters or {})}
        self.save_hyperparameters(described)
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
        self.best_score, self.best_epoch = -torch.inf, 0
        self.best_state: dict[str, Tensor] = {}
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
        # Each process has running statistics of its own; one encoder is judged, the first one's.
        copy_from_first(self.encoder_q.buffers())

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        pictures, targets, rows = batch
        self.validation.append((rows, targets, self(pictures)))

    def on_validation_epoch_end(self) -> None:
        _, targets, logits = self.validation_outputs()
        score = self.score(targets, logits)
        self.log("val/score", score, prog_bar=True, sync_dist=True)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.current_epoch + 1
            self.best_state = {k: v.detach().cpu().clone() for k, v in self.state_dict().items()}

    def on_test_epoch_start(self) -> None:
        copy_from_first(self.encoder_q.buffers())

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.test_logits = self.validation_outputs()[2]

    def validation_outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, targets and logits of the validation, each row once, in order; and forget.

        A sampler of several processes repeats rows to give each as many.
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
        return rows[order], targets[order], logits[order]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        best = {"score": self.best_score, "epoch": self.best_epoch, "state": self.best_state}
        checkpoint["best"] = best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        best = checkpoint["best"]
        self.best_score, self.best_epoch = best["score"], best["epoch"]
        self.best_state = best["state"]

    def configure_optimizers(self) -> tuple[list[Adam], list[MultiStepLR]]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = Adam(trained, lr=self.learning_rate)
        return [optimizer], [MultiStepLR(optimizer, list(self.milestones))]


def finetune(
    trainer: Trainer,
    module: SSLFineTuner,
    data: Mapping[str, Dataset[Any]],
    *,
    batch_size: int,
    num_workers: int,
    select_epoch: bool = True,
    drop_last: bool = False,
    ckpt_path: Path | None = None,
) -> dict[str, Tensor]:
    """Train on ``data["train"]``, go back to the best epoch on ``data["val"]``, and score.

    Args:
        trainer: Of one or several processes; all of them return the same.
        module: Ends with the weights of its best epoch.
        data: Samples are (uint8 picture, target, row).
        batch_size: Samples per step and process.
        num_workers: Loader processes.
        select_epoch: Whether to go back to the best epoch; else the last one is kept.
        drop_last: Whether training leaves out a last batch that is not full, as the original's.
        ckpt_path: Checkpoint of a run to continue.

    Returns:
        Logits of "val" and, if it is there, of "test": float32, shape (N, num_classes).
    """
    settings = {"batch_size": batch_size, "num_workers": num_workers}
    train = _train_loader(trainer, data["train"], module.seed, drop_last=drop_last, **settings)
    held_out = {
        split: _held_out_loader(trainer, data[split], **settings)
        for split in ("val", "test")
        if split in data
    }
    trainer.fit(module, train, held_out["val"], ckpt_path=ckpt_path, weights_only=True)
    if select_epoch:
        module.load_state_dict(module.best_state)
    logits = {}
    for split, loader in held_out.items():
        trainer.test(module, loader, verbose=False)
        logits[split] = module.test_logits
    return logits


def _train_loader(
    trainer: Trainer,
    data: Dataset[Any],
    seed: int,
    *,
    batch_size: int,
    num_workers: int,
    drop_last: bool,
) -> DataLoader[Any]:
    """Load in an order that is a function of (seed, epoch), this process's share of it."""
    keys = SeededSampler(
        len(data),  # type: ignore[arg-type]
        seed,
        epoch=lambda: epoch_of(trainer),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    # A last batch of one picture would have no deviation to normalise by.
    drop_last = drop_last or len(keys) % batch_size == 1
    loader = DataLoader(
        data,
        batch_size,
        sampler=SeededOrder(keys),
        num_workers=num_workers,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
    )
    if not len(loader):
        raise UserError(
            f"{keys.num_samples} labelled pictures are too few for {trainer.world_size} processes "
            f"and batches of {batch_size}: take more labels, or one process and smaller batches"
        )
    return loader


def _held_out_loader(
    trainer: Trainer, data: Dataset[Any], *, batch_size: int, num_workers: int
) -> DataLoader[Any]:
    """Load in the order of the rows; some come twice, so that each process has as many."""
    share: DistributedSampler[Any] = DistributedSampler(
        data, trainer.world_size, trainer.global_rank, shuffle=False
    )
    return DataLoader(
        data,
        batch_size,
        sampler=share,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
