"""Any field of a checkpoint may be wrong: the run is refused, or it ends as it would have."""

import copy
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR
from torch.utils.data import DataLoader, TensorDataset

from models.best_epoch import BestEpoch
from utils.checkpoint import check_same_run
from utils.errors import UserError
from utils.launch import World
from utils.restored import fit
from utils.training import run_trainer

MISSING = object()
NUM_CASES = 200
OPTIMIZERS: dict[str, tuple[Any, Callable[[Any], LRScheduler], str]] = {
    "adam": (torch.optim.Adam, lambda optimizer: MultiStepLR(optimizer, [1]), "epoch"),
    "sgd": (torch.optim.SGD, lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step), "step"),
}


class Tiny(LightningModule):
    """A linear layer with batch norm that keeps its best epoch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
        self.kind, self.best = kind, BestEpoch()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layers(batch[0]).square().mean()

    def on_train_epoch_end(self) -> None:
        self.best.update(50.0, self.current_epoch + 1, self.state_dict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = dict(vars(self.best))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best = BestEpoch(**checkpoint["best"])
        self.best.check(checkpoint["epoch"] + 1, self.state_dict())

    def configure_optimizers(self) -> Any:
        optimizer, scheduler, interval = OPTIMIZERS[self.kind]
        more = {"momentum": 0.9} if self.kind == "sgd" else {}
        made = optimizer(self.parameters(), lr=0.1, **more)
        return [made], [{"scheduler": scheduler(made), "interval": interval}]


def train(kind: str, folder: Path | None, epochs: int, resumed: Path | None = None) -> Tiny:
    """Train on four samples, two steps per epoch."""
    module, settings = Tiny(kind), {"accelerator": "cpu", "max_epochs": epochs}
    trainer = run_trainer("test", World(), settings, checkpoints=folder)
    data = torch.arange(8.0).reshape(4, 2)
    loader = DataLoader(TensorDataset(data), batch_size=2)
    if resumed is not None:
        check_same_run(resumed, module.hparams, epochs)
    fit(trainer, module, loader, resumed=resumed)
    return module


def fields(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the keys to every value of nested containers, and the value."""
    if keys:
        yield keys, value
    inner: Any = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, each in inner:
        yield from fields(each, (*keys, key))


def wrong_values(value: Any) -> list[Any]:
    """Values of other types, shapes and ranges in the place of one."""
    wrong: list[Any] = [MISSING, None, "abc", {"a": 1}, [1], [[[[[1]]]]], -3, 10**30, 1.5]
    if isinstance(value, Tensor):
        other = value.int() if value.is_floating_point() else value.float()
        wrong += [value[None], torch.zeros(0), other, torch.full_like(value.float(), torch.nan)]
        wrong += [torch.full_like(value, -3)] * (value.ndim == 0)
    elif isinstance(value, float):
        wrong += [float("nan"), float("inf"), -1.0, 1e300]
    elif isinstance(value, bool):
        wrong += [not value]
    elif isinstance(value, int):
        wrong += [value + 1, value - 1, float(value), True]
    elif isinstance(value, dict):
        wrong += [{}, value | {"step": 5, 77: 5}]
    elif isinstance(value, list):
        wrong += [[], value + value]
    return wrong


def changed(content: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """Copy containers with another value, or without it."""
    content, (first, *rest) = copy.copy(content), keys
    if rest:
        content[first] = changed(content[first], tuple(rest), value)
    elif value is MISSING:
        del content[first]
    else:
        content[first] = value
    return content


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_wrong_field_is_refused_or_changes_nothing(kind: str, tmp_path: Path) -> None:
    train(kind, tmp_path, 2)
    path, content = tmp_path / "last.ckpt", torch.load(tmp_path / "last.ckpt", weights_only=True)
    expected = train(kind, None, 3, path)
    cases = [(keys, wrong) for keys, value in fields(content) for wrong in wrong_values(value)]
    refused = []
    for keys, wrong in random.Random(0).sample(cases, NUM_CASES):
        where = f"{'.'.join(map(str, keys))} = {wrong!r}"
        torch.save(changed(content, keys, wrong), path)
        try:
            found = train(kind, None, 3, path)
        except UserError as error:
            refused.append(str(error))
        else:
            pairs = zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
            assert all(torch.equal(*pair) for pair in pairs), where
    assert len(refused) > NUM_CASES / 2
    known = re.compile(
        r"[^\n]*(the last\.ckpt of its run|the flags of its run|raise --max_epochs [^\n]*)"
    )
    assert [text for text in refused if not known.fullmatch(text)] == []


@pytest.mark.parametrize(
    ("part", "value", "error"),
    [
        ("scheduler_progress", MISSING, "loops has no ready"),
        ("scheduler_progress", 9, "loops has another .*/total/ready"),
        ("val_loop.batch_progress", 9, "loops has another .*/total/ready"),
    ],
)
def test_a_counter_that_a_file_of_this_lightning_would_not_have_is_refused(
    part: str, value: object, error: str, tmp_path: Path
) -> None:
    train("sgd", tmp_path, 2)
    path = tmp_path / "last.ckpt"
    content = torch.load(path, weights_only=True)
    keys = ("loops", "fit_loop", f"epoch_loop.{part}", "total", "ready")
    torch.save(changed(content, keys, value), path)
    with pytest.raises(UserError, match=error):
        train("sgd", None, 3, path)
