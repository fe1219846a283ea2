"""Faults that a trial puts into its own process, and what a step must not have changed."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from datasets.seco.patches import SecoPatches
from models.moco2_module import MocoV2
from utils import reading
from utils.distributed import gather, rank


def at_step(step: int, act: Callable[[], object], process: int = 0) -> None:
    """Do something before a step of a process.

    Args:
        step: Number of the step.
        act: What to do.
        process: Number of the process.
    """

    def on_train_batch_start(self: MocoV2, batch: Any, batch_idx: int) -> None:
        if self.global_step == step and rank() == process:
            act()

    MocoV2.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign,assignment]


def die() -> None:
    """End this process as the system does when the memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_reading(reads: int) -> None:
    """Kill each loader process within one of its reads.

    Args:
        reads: Number of the read, from 1.
    """
    read, done = SecoPatches.read, [0]

    def read_or_die(source: SecoPatches, *patch: Any) -> Any:
        done[0] += get_worker_info() is not None
        if done[0] == reads:
            die()
        return read(source, *patch)

    SecoPatches.read = read_or_die  # type: ignore[method-assign,assignment]


def hang(number: int, seconds: float) -> None:
    """Let a band of a patch hang three times as long as the limit of the reports.

    Args:
        number: How many files are opened before it.
        seconds: Limit of the reports.
    """
    reading.STUCK_S = seconds
    open_file, opened = os.open, [0]

    def open_slowly(path: Any, *arguments: Any, **named: Any) -> int:
        opened[0] += str(path).endswith(".tif")
        if opened[0] == number:
            opened[0] += 1
            time.sleep(3 * seconds)
        return open_file(path, *arguments, **named)

    os.open = open_slowly


def lose_output(kind: str) -> None:
    """Print to a full disk, or to a pipe that nobody reads."""
    if kind.startswith("full"):
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    os.dup2(target, 1)
    sys.stdout = os.fdopen(1, "w")


def lose_folder(kind: str, log_dir: Path) -> None:
    """Remove or rename the folder of the run.

    Args:
        kind: What happens, "renamed folder" or another text.
        log_dir: Folder of the runs.
    """
    (run_dir,) = log_dir.glob("*/version_*")
    if kind.startswith("renamed"):
        run_dir.rename(log_dir / "elsewhere")
    else:
        shutil.rmtree(run_dir)


def spoil(part: str, value: float, step: int, process: int) -> None:
    """Make a part of one step not finite, and raise an error if the step leaves a trace.

    Args:
        part: "query", "key", "loss" or "gradient".
        value: A number that is not finite.
        step: Number of the step.
        process: Number of the process.
    """
    before: dict[str, Tensor] = {}
    score = MocoV2._score

    def is_due(module: MocoV2) -> bool:
        return module.global_step == step and rank() == process

    def on_fit_start(self: MocoV2) -> None:
        if part == "gradient":
            weight = self.get_parameter("encoder_q.6.0.conv1.weight")
            weight.register_hook(lambda grad: grad * value if is_due(self) else grad)

    def spoiled_score(self: MocoV2, *batch: Any) -> Any:
        logits, newest = score(self, *batch)
        is_now = part == "loss" and is_due(self)
        return [each * value for each in logits] if is_now else logits, newest

    def on_train_batch_start(self: MocoV2, batch: Any, batch_idx: int) -> None:
        if self.global_step == step + 1:
            found = _state(self)
            moved = [name for name in before if not torch.equal(before[name], found[name])]
            assert not moved, moved
        elif self.global_step == step:
            before.update(_state(self))
            img_q, img_k, _ = batch
            if part in ("query", "key") and rank() == process:
                (img_q if part == "query" else img_k[step % len(img_k)])[1, 2, 3, 4] = value

    def on_train_end(self: MocoV2) -> None:
        # Running statistics of batch norm differ between processes.
        tensors = [*self.parameters(), self.queue]
        totals = gather(torch.stack([each.detach().double().sum() for each in tensors])[None])
        assert (totals == totals[0]).all(), totals

    for hook in (on_fit_start, on_train_batch_start, on_train_end):
        setattr(MocoV2, hook.__name__, hook)
    MocoV2._score = spoiled_score  # type: ignore[method-assign,assignment]


def check_bad_step(log_dir: Path) -> str | None:
    """Return what a run with one bad step has left wrong in its files."""
    (run_dir,) = log_dir.glob("*/version_*")
    count = json.loads((run_dir / "results.json").read_text())["metrics"]["bad_steps"]
    state = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    if count != 1:
        return f"{count} bad steps in results.json"
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    lengths = state["queue"].norm(dim=1)
    if broken or (lengths - 1).abs().max() > 1e-4:
        return f"not finite: {broken}; lengths of the keys {lengths.min()} to {lengths.max()}"
    return None


def _state(module: MocoV2) -> dict[str, Tensor]:
    """Copy all that a step changes, except the key encoder, which follows earlier steps."""
    momenta = module.trainer.optimizers[0].state_dict()["state"]
    state = {name: each for name, each in module.state_dict().items() if _is_of_step(name)}
    return {
        name: each.clone()
        for name, each in (state | {k: v["momentum_buffer"] for k, v in momenta.items()}).items()
    }


def _is_of_step(name: str) -> bool:
    is_average = name.startswith(("encoder_k", "heads_k")) and "running" not in name
    return not is_average and not name.endswith("num_batches_tracked")
