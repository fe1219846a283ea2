"""The training with Lightning: the data module, model and trainer of main_pretrain.py itself."""

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

import main_pretrain
from benchmarks.timing import clock
from models.pretrain_run import FiniteLoss, pretrain_trainer
from utils.launch import World


def trainer_rate(flags: list[str], *, warm_up: int, steps: int, in_memory: bool = False) -> float:
    """Train for a few steps and return samples per second.

    Args:
        flags: Of main_pretrain.py.
        warm_up: Steps before the clock starts.
        steps: Steps that count.
        in_memory: Train on one batch again and again, which is on the device already.
    """
    args = main_pretrain.parse_args([*flags, "--debug"])
    datamodule = main_pretrain.make_datamodule(args, World())
    if in_memory:
        repeated = repeat_first(datamodule.train_dataloader, warm_up + steps)
        datamodule.train_dataloader = repeated  # type: ignore[method-assign]
    model = main_pretrain.make_model(args, datamodule, World())
    stopwatch = Stopwatch(warm_up, steps)
    trainer = pretrain_trainer(args, World(), [FiniteLoss(), stopwatch], None)
    trainer.fit_loop.epoch_loop.max_steps = warm_up + steps
    trainer.fit(model, datamodule)
    del trainer, model, datamodule  # they hold each other, and gigabytes: Python is in no hurry
    gc.collect()
    return steps * args.batch_size / stopwatch.seconds


def repeat_first(
    load: Callable[[], Iterable[dict[str, Any]]], times: int
) -> Callable[[], "Repeated"]:
    """Replace a loader by its first batch, repeated."""
    return lambda: Repeated(load(), times)


class Repeated:
    """The first batch of a loader, repeated.

    Args:
        loader: Loader of training batches.
        times: Number of batches of an epoch.
    """

    def __init__(self, loader: Iterable[dict[str, Any]], times: int) -> None:
        self.times = times
        self.batch = next(iter(loader))
        self.batch["patches"] = self.batch["patches"].clone()  # its buffer is used again

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.times):
            yield dict(self.batch)  # the data module removes entries

    def __len__(self) -> int:
        return self.times


class Stopwatch(Callback):
    """Times the steps after the first ones; waits for the device at both ends only."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up = warm_up
        self.last = warm_up + steps
        self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.warm_up:
            self.seconds -= clock(pl_module.device)
        elif trainer.global_step == self.last:
            self.seconds += clock(pl_module.device)
