"""The batches of a SeCo data module, recorded from a Lightning training that changes nothing."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from datasets.seco_datamodule import SecoDataModule
from utils.augment_config import AugmentConfig

Batch = tuple[Tensor, list[Tensor], Tensor | None]
CALM: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
CALM |= {"enable_progress_bar": False, "enable_model_summary": False}


def make(data_dir: Path, data_mode: str = "seco", **changes: Any) -> SecoDataModule:
    options: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "seed": 3}
    options |= {"augment": AugmentConfig(crop_size=16), "data_mode": data_mode}
    return SecoDataModule(data_dir, **(options | changes))


class Recorder(LightningModule):
    """Trains nothing and keeps every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[Batch] = []

    def training_step(self, batch: Batch) -> Tensor:
        self.batches.append(batch)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    datamodule: SecoDataModule, epochs: int, ckpt_path: Path | None = None, **changes: Any
) -> tuple[Trainer, Recorder]:
    trainer = Trainer(**(CALM | changes), max_epochs=epochs, use_distributed_sampler=False)
    recorder = Recorder()
    trainer.fit(recorder, datamodule, ckpt_path=ckpt_path)
    return trainer, recorder


def assert_same(first: Recorder, second: Recorder) -> None:
    assert len(first.batches) == len(second.batches) > 0
    for (q, k, _), (other_q, other_k, _) in zip(first.batches, second.batches, strict=True):
        assert torch.equal(q, other_q)
        assert all(torch.equal(a, b) for a, b in zip(k, other_k, strict=True))
