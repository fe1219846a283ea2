"""A model and a trainer as a user writes them, without this project's modules."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn


class MeanColors(LightningModule):
    """A linear layer on the mean of each channel of the first image; keeps the targets it saw.

    Args:
        num_channels: Channels of the images.
        loss: Takes the outputs, (B, outputs), and the last part of the batch.
        num_outputs: Outputs of the layer.
    """

    def __init__(self, num_channels: int, loss: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(num_channels, num_outputs)
        self.loss = loss
        self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def _step(self, name: str, batch: list[Tensor]) -> Tensor:
        images, targets = batch[0], batch[-1]
        self.seen[name].append(targets.tolist())
        outputs = self.layer(images.mean((2, 3)))
        if targets.ndim == 4:  # of pixels
            outputs = outputs[..., None, None].expand_as(targets)
        loss: Tensor = self.loss(outputs, targets)
        return loss

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: list[Tensor]) -> None:
        self._step("val", batch)

    def test_step(self, batch: list[Tensor]) -> None:
        self._step("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def plain_trainer(folder: Path | None = None, max_epochs: int = 2, **more: Any) -> Trainer:
    """Some epochs on the CPU, without files."""
    return Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **more,
    )
