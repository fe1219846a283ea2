"""The bar of a training: what it counts and what it shows."""

import os
import signal
from unittest.mock import PropertyMock, create_autospec

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from tests.references.plain_training import plain_trainer
from tests.references.waiting import HANG_S
from utils.progress import progress
from utils.training import SampleProgress


class Line(LightningModule):
    """Has a loss of 0.5, and a score after every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return 0 * self.layer(batch[0]).sum() + 0.5

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/score", 70.0 + self.current_epoch, prog_bar=True)
        self.log("val/other", F.relu(batch[0]).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_samples_of_a_partial_last_batch_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.progress._REFRESH_LOG_S", HANG_S)
    trainer = plain_trainer(None, 3, callbacks=[SampleProgress("fine-tuning")])
    loader = DataLoader(TensorDataset(torch.zeros(19, 1)), 8)
    trainer.fit(Line(), loader, loader)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    bars = [line for line in lines if line.startswith("fine-tuning")]
    assert "57/57" in bars[-1]  # 3 x 19, not 3 x 24
    assert "epoch=3/3, loss=0.500, score=72]" in bars[-1]
    assert len(bars) == 2  # nobody watches: the first line and the last
    few = plain_trainer(None, 3, max_steps=2, callbacks=[SampleProgress("few steps")])
    few.fit(Line(), loader, loader)
    assert "16/16" in capsys.readouterr().err


def test_processes_without_a_bar_read_the_scores_as_the_first_one_does() -> None:
    """Reading exchanges what was logged with ``sync_dist``: the first one alone would wait."""
    trainer = create_autospec(Trainer, instance=True)
    scores = PropertyMock(return_value={})
    type(trainer).progress_bar_metrics = scores
    SampleProgress("fine-tuning").on_train_epoch_end(trainer, Line())
    scores.assert_called_once()


def test_of_several_processes_the_first_one_shows_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")  # as Lightning starts the second one
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert list(progress(range(3), desc="work")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_process_that_is_killed_while_it_draws_does_not_stop_others() -> None:
    child = os.fork()
    if child == 0:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert tqdm.get_lock().acquire(False)
    tqdm.get_lock().release()
