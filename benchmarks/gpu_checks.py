"""What must hold on a GPU before its speed counts: right views, right batches, and no waiting.

Each check returns figures, or raises an error.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice, product
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.input_cases import endless, store_loader
from benchmarks.timing import Rates, interleave, rate
from benchmarks.train_cases import TrainCases, trainer_rate
from datasets.store.loader import DeviceLoader, StoreLoader
from utils.augment_config import AugmentConfig
from utils.input_spec import InputSpec, quantile_spec
from utils.transforms import Augment

BANDS = (3, 1, 12)  # of the views that are compared
_BATCHES = 4  # that are compared
# Levels of 255: fp16 is wrong by up to 1/16 in each step. The paper's views hold whole levels, and
# the last digit of a float decides on which side of a half a pixel is.
_LIMITS = {False: {"mean": 0.1, "max": 0.5}, True: {"mean": 0.05, "max": 255.0}}


def views(device: torch.device, size: tuple[int, int] = (263, 264)) -> dict[str, Any]:
    """Compare the kernels with plain torch, and the paper's views with those of the CPU.

    Args:
        device: GPU, or a CPU on which Triton is interpreted.
        size: Height and width of the patches.

    Returns:
        Mean and largest difference of each kind of view, in levels of 255.
    """
    found, wrong = {}, []
    chances = (False, True)
    for bands, crop_first, synthetic, rounded in product(BANDS, chances, chances, chances):
        config = AugmentConfig(
            crop_size=size[0] * 4 // 5,
            rotate=True,
            crop_first=crop_first,
            round_to_uint8=rounded,
        )
        levels = _difference(Augment(_spec(bands), config), synthetic, size, device)
        name = f"{bands} bands, crop {'first' if crop_first else 'last'}"
        name += ", augmented" * synthetic + ", paper" * rounded
        found[name] = levels
        if not all(levels[key] <= limit for key, limit in _LIMITS[rounded].items()):  # also NaN
            wrong.append(f"{name}: {levels}")
    if wrong:
        raise ValueError(f"views differ by so many levels: {'; '.join(wrong)}")
    return found


def _difference(
    augment: Augment, synthetic: bool, size: tuple[int, int], device: torch.device
) -> dict[str, float]:
    """Return the mean and the largest difference of two paths to the same views."""
    from utils import fused_views

    noise = torch.rand(4, len(augment.table), *size, generator=torch.Generator().manual_seed(0))
    slope = torch.linspace(0, 1, size[1]) * torch.linspace(0.2, 1, size[0])[:, None]
    patches = (85 * (noise + 2 * slope)).byte()
    draws = augment.draw(torch.arange(len(patches)), 0, synthetic, size)
    rounded = augment.config.round_to_uint8
    on_cpu = augment._one_by_one(patches, draws).to(device) if rounded else None
    augment, patches, draws = augment.to(device), patches.to(device), draws.to(device)
    augment.fused = fused_views
    plain = augment._batched(patches, draws)
    error = ((on_cpu if on_cpu is not None else augment._fused(patches, draws)) - plain).abs()
    levels = error * augment.std
    return {"mean": levels.mean().item(), "max": levels.max().item()}


def _spec(bands: int) -> InputSpec:
    names = [f"X{number}" for number in range(bands)]
    return quantile_spec(names, {name: (9.0 + i, 200.0 + 2 * i) for i, name in enumerate(names)})


def augmentation(training: TrainCases, repeats: int) -> dict[str, Any]:
    """Measure the views of a batch, those of plain torch, and each kernel, in ms.

    Args:
        training: Cases of the encoder whose views are measured.
        repeats: Number of rounds.
    """
    training.make_views(training.batch)  # tries the kernels
    augment, on_gpu = training.augment, training.device.type == "cuda"
    kernels, cases = augment.fused, training.augmentation()
    if on_gpu and not kernels:
        raise RuntimeError("the kernels are not used")

    def plain() -> float:
        augment.fused = False
        try:
            return cases["augment/device"]()
        finally:
            augment.fused = kernels

    found: dict[str, Any] = interleave(cases | {"augment/plain torch": plain}, repeats)
    if on_gpu:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            training.make_views(training.batch)
        found["kernels"] = {e.key: e.self_device_time_total / 1e3 for e in profiled.key_averages()}
    return found


def upload(training: TrainCases) -> dict[str, Any]:
    """Check that uploaded batches are those of the store; measure the loader without training."""
    size, device = training.args.batch_size, training.device
    loader = store_loader(training.store, size, training.args.num_threads, device)
    _compare(loader, training)
    if device.type == "cuda" and not loader._buffers[0].patches.is_pinned():
        raise RuntimeError("the buffers are not pinned")
    samples = Rates((_loading_rate(loader, training),))
    return {"load/store": samples, "GB/s": samples.median * _sample_bytes(training) / 1e9}


def device_cache(training: TrainCases) -> dict[str, Any]:
    """Check the batches of ``--cache gpu``, and measure their loader without training."""
    loader = _device_loader(training)
    _compare(loader, training)
    return {"load/store on GPU": Rates((_loading_rate(loader, training),))}


def no_waiting(training: TrainCases) -> dict[str, Any]:
    """Train with an error wherever the CPU would wait for the GPU, also in Lightning."""
    for loader in (training.loader, _device_loader(training)):
        with closing(endless(loader)) as batches:
            views = map(training.make_views, batches)
            for each in islice(views, training.args.warm_up):
                training.bare_loop.step(each)
            with never_waiting():
                for each in islice(views, training.args.steps):
                    training.bare_loop.step(each)
    # The end of an epoch, and logging there, wait for the GPU.
    per_epoch = training.args.num_places // training.args.batch_size
    most = per_epoch - 1 - training.args.warm_up
    steps = {"warm_up": training.args.warm_up, "steps": min(training.args.steps, most)}
    for cache in ("mmap", "gpu") if training.args.gpus else ("mmap",):
        trainer_rate([*training.argv, "--cache", cache], **steps, around=never_waiting)
    return {"steps": training.args.steps}


@contextmanager
def never_waiting() -> Iterator[None]:
    """Let torch raise an error where it would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _device_loader(training: TrainCases) -> DeviceLoader:
    loader = store_loader(training.store, training.args.batch_size)
    return DeviceLoader(loader.dataset, loader.sampler, loader.batch_size, training.device)


def _compare(loader: StoreLoader | DeviceLoader, training: TrainCases) -> None:
    """Compare the first batches of an epoch with those of a loader on the CPU."""
    expected = store_loader(training.store, training.args.batch_size)
    for ours, theirs in islice(zip(loader, expected, strict=True), _BATCHES):
        for name in ("patches", "index"):
            if not torch.equal(ours[name].cpu(), theirs[name]):
                raise ValueError(f"{name} of a batch are not those that the CPU loads")


def _loading_rate(loader: StoreLoader | DeviceLoader, training: TrainCases) -> float:
    """Return samples per second of a loader without training, after a warm-up."""
    args = training.args
    with closing(endless(loader)) as batches:
        deque(islice(batches, args.warm_up), maxlen=0)
        return rate(
            lambda: deque(islice(batches, args.steps), maxlen=0),
            args.steps * args.batch_size,
            training.device,
        )()


def _sample_bytes(training: TrainCases) -> int:
    patches = training.batch["patches"]
    return patches.numel() // len(patches)
