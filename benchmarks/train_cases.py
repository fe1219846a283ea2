"""What a device trains: the step alone, from patches in memory, and end to end from a store."""

import gc
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import main_pretrain
from benchmarks.input_cases import SECO, STORE, endless, seco_views, store_loader
from benchmarks.reference_pipeline import Views
from benchmarks.timing import Measure, clock, rate
from datasets.store.reader import PackedStore
from models.bad_steps import BadSteps
from models.moco2_module import MocoV2
from models.pretrain_run import pretrain_trainer
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.launch import World
from utils.precision import autocast_type
from utils.transforms import Augment
from utils.view_draws import ViewDraws


class BareLoop:
    """Steps of Seasonal Contrast with the defaults of main_pretrain.py, without Lightning.

    Args:
        model: On the device where it trains.
        autocast: Type of the arithmetic, None for float32.
    """

    def __init__(self, model: MocoV2, autocast: torch.dtype | None) -> None:
        self.model = model
        self.autocast = autocast
        parameters = [*model.encoder_q.parameters(), *model.heads_q.parameters()]
        self.optimizer = model.optimizer(parameters)

    def step(self, views: Views) -> Tensor:
        """Train on one batch of views, and return the loss."""
        img_q, img_k = views
        with torch.autocast(img_q.device.type, self.autocast, enabled=self.autocast is not None):
            logits, targets = self.model(img_q, img_k)
            loss = torch.stack([F.cross_entropy(scores, targets) for scores in logits]).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


class TrainCases:
    """Measurements of the training of one encoder, in samples per second.

    Args:
        args: Sizes, as ``benchmarks.throughput`` chooses them.
        archive: Folder of ``make_archive``.
        base_encoder: Name of a torchvision ResNet.
        compiled: Compile the encoders of the bare loop, as ``--compile`` does.
    """

    def __init__(
        self, args: Namespace, archive: Path, base_encoder: str, compiled: bool = False
    ) -> None:
        self.args = args
        self.archive = archive
        self.base_encoder = base_encoder
        self.name = base_encoder + " compiled" * compiled
        self.device = torch.device("cuda" if args.gpus else "cpu")
        model = MocoV2(base_encoder, emb_spaces=SECO.emb_spaces).to(self.device)
        model = model.to(memory_format=torch.channels_last)
        if compiled:
            model.encoder_q.compile()
            model.encoder_k.compile()
        self.bare_loop = BareLoop(model, autocast_type(args.precision))
        self.store = store = PackedStore(archive / STORE)
        self.augment = Augment(store.input_spec, AugmentConfig(crop_size=args.crop_size))
        self.make_views = partial(seco_views, self.augment.to(self.device))
        self.loader = store_loader(store, args.batch_size, args.num_threads, self.device)
        with closing(endless(self.loader)) as batches:
            batch = next(batches)
            self.batch = {name: batch[name].clone() for name in ("patches", "epoch", "index")}

    def augmentation(self) -> dict[str, Measure]:
        """Measure the views on the device, and the drawing of their parameters on the CPU."""
        patches, size = self.batch["patches"], self.args.batch_size
        keys = sample_keys(0, self.batch["epoch"], self.batch["index"])

        def draw() -> list[ViewDraws]:
            return self.augment.draw_each(keys, SECO.streams, patches.shape[-2:])

        drawn = [draws.to(self.device) for draws in draw()]

        def work() -> None:
            for _ in range(self.args.steps):
                for view, draws in zip(SECO.views, drawn, strict=True):
                    self.augment.make(patches[:, view.date], draws)

        return {
            "augment/device": rate(work, self.args.steps * size, self.device),
            "augment/draw": rate(draw, size, self.device),
        }

    def steps(self) -> dict[str, Measure]:
        """Measure the bare loop on views, and on patches, that are on the device already."""
        views = self.make_views(self.batch)
        return {
            f"{self.name}/step, views": lambda: self._rate(repeat(views)),
            f"{self.name}/step, patches": lambda: self._rate(
                map(self.make_views, repeat(self.batch))
            ),
        }

    @property
    def argv(self) -> list[str]:
        """Flags of main_pretrain.py for the same training from the store."""
        names = ("precision", "batch_size", "crop_size", "gpus")
        flags = {name: getattr(self.args, name) for name in names}
        flags |= {"data_dir": self.archive / STORE, "base_encoder": self.base_encoder}
        flags["num_workers"] = self.args.num_threads
        return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]

    def end_to_end(self) -> dict[str, Measure]:
        """Measure the bare loop and Lightning's from a store, Lightning's also from memory."""
        argv = self.argv
        trainer = partial(trainer_rate, warm_up=self.args.warm_up, steps=self.args.steps)
        cases: dict[str, Measure] = {
            "loop, store": self._from_store,
            "Trainer, memory": partial(trainer, argv, in_memory=True),
            "Trainer, store": partial(trainer, argv),
        }
        if self.args.gpus:
            cases["Trainer, store on GPU"] = partial(trainer, [*argv, "--cache", "gpu"])
        return {f"{self.base_encoder}/{name}": measure for name, measure in cases.items()}

    def _rate(self, views: Iterator[Views]) -> float:
        """Train on batches of views; those of the warm-up empty a loader's queue."""
        for batch in islice(views, self.args.warm_up):
            self.bare_loop.step(batch)
        started = clock(self.device)
        for batch in islice(views, self.args.steps):
            self.bare_loop.step(batch)
        return self.args.steps * self.args.batch_size / (clock(self.device) - started)

    def _from_store(self) -> float:
        with closing(endless(self.loader)) as batches:
            return self._rate(map(self.make_views, batches))


def trainer_rate(
    argv: list[str],
    *,
    warm_up: int,
    steps: int,
    in_memory: bool = False,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> float:
    """Train as main_pretrain.py does, for a few steps, and return samples per second.

    Args:
        argv: Flags of main_pretrain.py.
        warm_up: Steps before the clock starts.
        steps: Steps that count.
        in_memory: Train on one batch again and again, which is on the device already.
        around: Context of the steps that count.
    """
    args = main_pretrain.parse_args([*argv, "--debug"])
    datamodule = main_pretrain.make_datamodule(args, World())
    if in_memory:
        load = partial(_repeat_first, datamodule.train_dataloader, warm_up + steps)
        datamodule.train_dataloader = load  # type: ignore[method-assign]
    model = main_pretrain.make_model(args, datamodule, World())
    stopwatch = _Stopwatch(warm_up, warm_up + steps, around)
    trainer = pretrain_trainer(args, World(), [BadSteps(args.max_bad_steps), stopwatch], None)
    trainer.fit_loop.epoch_loop.max_steps = warm_up + steps
    with stopwatch.context:  # left also by an error
        trainer.fit(model, datamodule)
    del trainer, model, datamodule  # they hold each other, and gigabytes
    gc.collect()
    return steps * args.batch_size / stopwatch.seconds


def _repeat_first(load: Callable[[], Iterable[dict[str, Any]]], times: int) -> DataLoader[Any]:
    """Return a loader that yields the first batch of another one many times."""
    batch = next(iter(load()))
    batch["patches"] = batch["patches"].clone()  # its buffer is used again
    # dict copies, because the data module removes entries
    return DataLoader([batch] * times, batch_size=None, collate_fn=dict)  # type: ignore[arg-type]


class _Stopwatch(Callback):
    """Times the steps after the first ones; waits for the device at both ends only."""

    def __init__(
        self, first: int, last: int, around: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.first = first
        self.last = last
        self.around = around
        self.context = ExitStack()
        self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.first:
            self.seconds -= clock(pl_module.device)
            self.context.enter_context(self.around())
        elif trainer.global_step == self.last:
            self.context.close()
            self.seconds += clock(pl_module.device)
