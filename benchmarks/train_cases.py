"""What a device trains: the step alone, from patches in memory, and end to end from a store."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor

from benchmarks.archive import Archive
from benchmarks.bare_loop import SPACES, BareLoop, seco_views
from benchmarks.input_cases import endless, store_loader
from benchmarks.lightning_run import trainer_rate
from benchmarks.reference_pipeline import ReferenceDataset, reference_loader
from benchmarks.timing import Measure, clock, rate
from datasets.store.reader import PackedStore
from models.moco2_module import MocoV2
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.precision import autocast_type
from utils.transforms import Augment

Views = tuple[Tensor, list[Tensor]]


@dataclass(frozen=True)
class TrainPlan:
    """How steps are measured.

    Attributes:
        device: Where to train.
        precision: Key of ``utils.precision.PRECISIONS``.
        batch_size: Samples of a step.
        crop_size: Side of a view in pixels.
        warm_up: Steps before the clock starts, in every repeat.
        steps: Steps that count.
        num_threads: Threads that read a store.
        num_processes: Processes of the original's pipeline.
    """

    device: torch.device
    precision: str
    batch_size: int
    crop_size: int
    warm_up: int
    steps: int
    num_threads: int
    num_processes: int

    @property
    def autocast(self) -> torch.dtype | None:
        """Type of the arithmetic, None for float32."""
        return autocast_type(self.precision)

    def flags(self, base_encoder: str) -> list[str]:
        """Return the flags of main_pretrain.py that train like this."""
        flags = {
            "base_encoder": base_encoder,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "crop_size": self.crop_size,
            "num_workers": self.num_threads,
            "gpus": int(self.device.type == "cuda"),
        }
        return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


class TrainCases:
    """Measurements of the training of one encoder, in samples per second.

    Args:
        plan: How to measure.
        archive: Patches to train on.
        base_encoder: Name of a torchvision ResNet.
    """

    def __init__(self, plan: TrainPlan, archive: Archive, base_encoder: str) -> None:
        self.plan = plan
        self.archive = archive
        self.base_encoder = base_encoder
        model = MocoV2(base_encoder, emb_spaces=SPACES).to(memory_format=torch.channels_last)
        self.bare_loop = BareLoop(model.to(plan.device), plan.autocast)
        store = PackedStore(archive.store)
        config = AugmentConfig(crop_size=plan.crop_size)
        self.augment = Augment(store.input_spec, config).to(plan.device)
        self.loader = store_loader(store, plan.batch_size, plan.num_threads, plan.device)
        with closing(endless(self.loader)) as batches:
            batch = next(batches)
            self.batch = {name: batch[name].clone() for name in ("patches", "epoch", "index")}
        self.views = self.make_views(self.batch)

    def make_views(self, batch: dict[str, Any]) -> Views:
        """Augment a batch of patches on the device."""
        keys = sample_keys(0, batch["epoch"], batch["index"])
        return seco_views(self.augment, batch["patches"], keys)

    def augmentation(self) -> dict[str, Measure]:
        """Measure the augmentation on the device."""

        def work() -> None:
            for _ in range(self.plan.steps):
                self.make_views(self.batch)

        units = self.plan.steps * self.plan.batch_size
        return {"augment/device": rate(work, units, self.plan.device)}

    def steps(self) -> dict[str, Measure]:
        """Measure the bare loop on views, and on patches, that are on the device already."""
        return {
            f"{self.base_encoder}/step, views": lambda: self._rate(repeat(self.views)),
            f"{self.base_encoder}/step, patches": lambda: self._rate(
                map(self.make_views, repeat(self.batch))
            ),
        }

    def end_to_end(self) -> dict[str, Measure]:
        """Measure the bare loop and Lightning's from a store, Lightning's also from memory."""
        plan = self.plan
        flags = ["--data_dir", str(self.archive.store), *plan.flags(self.base_encoder)]
        trainer = partial(trainer_rate, warm_up=plan.warm_up, steps=plan.steps)
        cases: dict[str, Measure] = {
            "loop, store": self._from_store,
            "Trainer, memory": partial(trainer, flags, in_memory=True),
            "Trainer, store": partial(trainer, flags),
        }
        if plan.device.type == "cuda":
            cases["Trainer, store on GPU"] = partial(trainer, [*flags, "--cache", "gpu"])
        return {f"{self.base_encoder}/{name}": measure for name, measure in cases.items()}

    def reference(self) -> dict[str, Measure]:
        """Measure the bare loop behind the worker processes of the original's pipeline."""
        return {f"{self.base_encoder}/loop, reference": self._from_reference}

    def _rate(self, views: Iterator[Views]) -> float:
        """Train on so many batches of views; those of the warm-up empty a loader's queue."""
        plan = self.plan
        self._train(islice(views, plan.warm_up))
        started = clock(plan.device)
        self._train(islice(views, plan.steps))
        return plan.steps * plan.batch_size / (clock(plan.device) - started)

    def _train(self, views: Iterator[Views]) -> None:
        for img_q, img_k in views:
            self.bare_loop.step(img_q, img_k)

    def _from_store(self) -> float:
        with closing(endless(self.loader)) as batches:
            return self._rate(map(self.make_views, batches))

    def _from_reference(self) -> float:
        """Time a batch or more of every worker process, after each has delivered one.

        The processes end with the measurement. The CPU leaves a core to each, as main_pretrain.py.
        """
        plan = self.plan
        dataset = ReferenceDataset(self.archive.folder, plan.crop_size)
        batches = iter(reference_loader(dataset, plan.batch_size, plan.num_processes))
        threads = torch.get_num_threads()
        if plan.device.type == "cpu":
            torch.set_num_threads(max(1, threads - plan.num_processes))

        def train(number: int) -> int:
            for img_q, img_k in islice(batches, number):
                self.bare_loop.step(img_q.to(plan.device), [key.to(plan.device) for key in img_k])
            return number * plan.batch_size

        train(plan.num_processes)
        started = clock(plan.device)
        samples = train(max(plan.num_processes, 3))
        elapsed = clock(plan.device) - started
        torch.set_num_threads(threads)
        return samples / elapsed
