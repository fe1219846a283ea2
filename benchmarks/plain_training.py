"""Pre-train with plain Lightning and its defaults, as a user would write it: SimCLR on two dates.

The reliability tests do to this script what they do to main_pretrain.py. Data and encoder are the
same; checkpoints, signals and errors are what Lightning does by itself.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from models.backbones import Encoder

BATCH_SIZE = 2
_TEMPERATURE = 0.1


class Places(Dataset[Tensor]):
    """Red, green and blue of two dates of each place: float32, shape (2, 3, H, W)."""

    def __init__(self, root: Path) -> None:
        self.places = sorted(path for path in root.iterdir() if path.is_dir())

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        dates = sorted(path for path in self.places[index].iterdir() if path.is_dir())[:2]
        return torch.stack([self._read(date) for date in dates])

    def _read(self, date: Path) -> Tensor:
        planes = []
        for band in ("B4", "B3", "B2"):
            with rasterio.open(date / f"{band}.tif") as file:
                planes.append(file.read(1))
        return torch.from_numpy(np.stack(planes)).float() / 255


class SimClr(LightningModule):
    """Embeddings of two dates of a place attract each other, those of other places repel."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder("resnet18_slim")
        self.head = nn.Linear(self.encoder.num_features, 8)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        keys = functional.normalize(self.head(self.encoder(batch.flatten(0, 1))), dim=1)
        first, second = keys.view(len(batch), 2, -1).unbind(1)
        logits = first @ second.T / _TEMPERATURE
        loss = functional.cross_entropy(logits, torch.arange(len(batch)))
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9)


def main(
    data_dir: Path,
    log_dir: Path,
    *,
    max_epochs: int = 2,
    num_workers: int = 0,
    ckpt_path: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """Train; Lightning's defaults save a checkpoint after each epoch.

    Args:
        data_dir: Folder of the places.
        log_dir: Folder of logs and checkpoints.
        max_epochs: Passes over the places.
        num_workers: Loader processes.
        ckpt_path: Checkpoint to resume, which a user has to name.
        callbacks: What a test does to the training.
    """
    seed_everything(42, verbose=False)
    loader = DataLoader(
        Places(data_dir), BATCH_SIZE, shuffle=True, num_workers=num_workers, drop_last=True
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        default_root_dir=log_dir,
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SimClr(), loader, ckpt_path=ckpt_path)
    return trainer
