"""Classifiers that are trained through an encoder rather than on its cached features."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from models.backbones import Encoder
from utils.distributed import gather


class SSLFineTuner(LightningModule):
    """An encoder with a linear classifier on top, trained together or the classifier alone.

    Validation looks at the whole set and keeps the weights of the best epoch, in ``best_state``.

    Args:
        encoder: Trained in place.
        num_classes: Outputs of the classifier.
        normalize: Turns uint8 pictures into the encoder's inputs.
        multi_label: Whether a sample has any number of labels rather than one class.
        score: Of the validation set: takes targets and logits, larger is better.
        learning_rate: Of Adam.
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
        milestones: Sequence[int] = (),
        dropout: float = 0.0,
        freeze_backbone: bool = False,
        encoder_in_train_mode: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not freeze_backbone)
        self.classifier = nn.Linear(encoder.num_features, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.normalize = normalize
        self.multi_label = multi_label
        self.score = score
        self.learning_rate = learning_rate
        self.milestones = milestones
        self.encoder_in_train_mode = encoder_in_train_mode
        self.best_score, self.best_epoch = -torch.inf, 0
        self.best_state: dict[str, Tensor] = {}
        self.validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures: uint8, (B, C, H, W) -> logits, float32, (B, num_classes)."""
        features = self.encoder(self.normalize(pictures))
        return self.classifier(self.dropout(features)).float()

    def on_train_epoch_start(self) -> None:
        self.encoder.train(self.encoder_in_train_mode)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        pictures, targets = batch[:2]
        logits = self(pictures)
        if self.multi_label:
            loss = F.multilabel_soft_margin_loss(logits, targets.float())
        else:
            loss = F.cross_entropy(logits, targets)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        pictures, targets, rows = batch
        self.validation.append((rows, targets, self(pictures)))

    def on_validation_epoch_end(self) -> None:
        _, targets, logits = self.validation_outputs()
        score = self.score(targets, logits)
        self.log("val/score", score, prog_bar=True)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.current_epoch + 1
            self.best_state = {k: v.detach().cpu().clone() for k, v in self.state_dict().items()}

    def validation_outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, targets and logits of the validation, each row once, in order; and forget.

        A sampler of several processes repeats rows to give each as many.
        """
        parts = [torch.cat(column) for column in zip(*self.validation, strict=True)]
        self.validation.clear()
        rows, targets, logits = (gather(part).cpu() for part in parts)
        order = rows.argsort(stable=True)
        order = order[rows[order].diff(prepend=rows.new_tensor([-1])) > 0]
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
