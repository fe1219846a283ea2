"""Plan of a pre-training: its steps, disk, memory and hours, from a few steps that are measured."""

import multiprocessing
import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from models.bad_steps import BadSteps
from models.moco2_module import MocoV2
from models.pretrain_run import pretrain_trainer
from models.run_timing import peak_memory
from utils.checkpoint import read_checkpoint
from utils.files import require_free
from utils.launch import World, batch_size_per_process
from utils.restored import fit

# Steps before the measured ones: the first are slow, and the next find batches that were read ahead
# (torch's loaders read two per process).
_WARM_UP, _MEASURED = 3, 20
_WARM_UP_S, _MEASURED_S = 20.0, 40.0  # after which slow steps are enough
# Memory limit of a container, https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max) and
# https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def dry_run(
    args: Namespace,
    world: World,
    model: MocoV2,
    datamodule: LightningDataModule,
    num_samples: int,
    per_epoch: int,
) -> Trainer:
    """Check the disk, take a few steps in one process, and print the plan; write nothing.

    Args:
        args: Flags of the run.
        world: Processes of the run; all but the first one end here.
        model: Model that is trained.
        datamodule: Its data.
        num_samples: Samples of the data.
        per_epoch: Steps of an epoch.

    Returns:
        The trainer of the measured steps.

    Raises:
        UserError: The disk is too small for the checkpoints.
    """
    if world.rank > 0:
        sys.exit(0)
    samples = batch_size_per_process(args, world) * world.size
    resumed, total = args.resume_from_checkpoint, per_epoch * args.max_epochs
    done = read_checkpoint(resumed)["global_step"] if resumed else 0
    left = f", {done:,} are done" if done else ""
    print("plan of the pre-training; nothing is written")
    print(f"data: {num_samples:,} samples in {args.data_dir}")
    print(f"steps: {total:,} ({args.max_epochs:,} epochs x {per_epoch:,}){left}")
    print(f"batch: {samples:,} samples per step, {samples // world.size:,} in each process")
    parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
    print(f"model: {args.base_encoder}, {parameters / 1e6:.1f} million trained parameters")
    print(f"disk: {_check_disk(args, model, done // per_epoch)}")
    args.resume_from_checkpoint = None  # the measured steps begin anywhere
    timer = _StepTimer(_WARM_UP + 2 * args.num_workers, total)
    callbacks = [timer, BadSteps(args.max_bad_steps)]
    trainer = pretrain_trainer(args, World(), callbacks, None, timer.max_steps)
    fit(trainer, model, datamodule, resumed=None)
    print(f"memory: {_memory(args, world, timer.peak)}")
    per_s = timer.steps * samples / timer.seconds
    alone = "" if world.size == 1 else f" in one of {world.size} processes, without communication"
    print(f"speed: {per_s:,.1f} samples/s, measured on {timer.steps} steps{alone}")
    hours = max(0, total - done) * samples / per_s / 3600
    print(f"time: {hours:,.2f} hours, without checkpoints and online probes")
    return trainer


class _StepTimer(Callback):
    """Time steps after some that warm up, and note the memory of the process and its loaders.

    Args:
        warm_up: Steps that are not timed; at most half of those of the run.
        total: Steps of the run.
    """

    def __init__(self, warm_up: int, total: int) -> None:
        self.warm_up = min(warm_up, total // 2)
        self.max_steps = min(self.warm_up + _MEASURED, total)
        self.is_warm = self.warm_up == 0
        self.peak, self.steps, self.seconds = 0, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        seconds = time.perf_counter() - self._began
        if self.is_warm:
            trainer.should_stop = trainer.should_stop or seconds > _MEASURED_S
        elif self.steps == self.warm_up or seconds > _WARM_UP_S:
            self.is_warm = True
            self._begin()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _wait_for_gpu()
        self.seconds = time.perf_counter() - self._began
        self.peak = _peak_with_loaders()

    def _begin(self) -> None:
        _wait_for_gpu()
        self._began, self.steps = time.perf_counter(), 0


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _check_disk(args: Namespace, model: MocoV2, epochs_done: int) -> str:
    """Return the size of what the run writes; more than is free is refused."""
    trained = [each for group in model.make_optimizer().param_groups for each in group["params"]]
    size = _num_bytes(model.state_dict().values()) + _num_bytes(trained) * bool(args.momentum)
    every = args.save_every_n_epochs
    count = args.max_epochs // every - epochs_done // every
    count += 0 if epochs_done else 2  # last.ckpt and previous.ckpt
    path = args.log_dir.absolute()
    folder = next(each for each in (path, *path.parents) if each.exists())
    require_free(folder, count * size)
    free = shutil.disk_usage(folder).free
    return f"{count} checkpoints of {size / 1e9:.3g} GB; {free / 1e9:.1f} GB are free at {folder}"


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.nbytes for each in tensors)


def _memory(args: Namespace, world: World, peak: int) -> str:
    """Return the peak of memory, of all processes of a machine, and what the machine has."""
    limits = [Path(path).read_text().strip() for path in _LIMITS if Path(path).exists()]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = min([pages, *(int(text) for text in limits if text.isdigit())])
    text = f"at most {peak * world.per_node / 1e9:.2f} of {size / 1e9:.1f} GB, loaders included"
    if args.gpus:
        used, size = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
        text += f"; of each GPU {used / 1e9:.2f} of {size / 1e9:.1f} GB"
    return text


def _peak_with_loaders() -> int:
    """Return the largest memory of this process and of its loaders so far, in bytes.

    Pages that they share, such as those of a mapped file, are counted in each.
    """
    peak = peak_memory()
    for child in multiprocessing.active_children():
        status = Path(f"/proc/{child.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peak += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return peak
