"""Classifiers that are trained through an encoder rather than on its cached features."""

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from models.backbones import Encoder
from models.linear_probe import milestones


class LinearProbe(LightningModule):
    """The original's probe on EuroSAT, kept to reproduce its numbers (``--protocol paper``).

    No gradient reaches the encoder, yet it is not frozen: in train mode it normalises by the
    statistics of the batch, and its running statistics, which validation uses, drift towards
    EuroSAT. Pictures are only divided by 255. The accuracy is a mean over validation batches.

    Args:
        encoder: Its batch-norm buffers change.
        num_classes: Outputs of the linear layer.
        learning_rate: Of Adam, divided by ten at 60 % and at 80 % of the epochs.
        max_epochs: Epochs of the schedule.
    """

    def __init__(
        self, encoder: Encoder, num_classes: int, learning_rate: float, max_epochs: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.num_features, num_classes)
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures: uint8, (B, 3, H, W) -> logits, (B, num_classes)."""
        with torch.no_grad():
            features = self.encoder(pictures.float() / 255)
        return self.classifier(features)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pictures, labels = batch
        loss = F.cross_entropy(self(pictures), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pictures, labels = batch
        accuracy = 100 * (self(pictures).argmax(1) == labels).float().mean()
        self.log("val/accuracy_batch_mean", accuracy, prog_bar=True)

    def configure_optimizers(self) -> tuple[list[Adam], list[MultiStepLR]]:
        optimizer = Adam(self.classifier.parameters(), lr=self.learning_rate)
        return [optimizer], [MultiStepLR(optimizer, milestones(self.max_epochs))]
