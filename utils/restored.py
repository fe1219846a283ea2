"""Resume a training only from the state that its run would have written.

A file may have all parts of a checkpoint and still hold other tensors, optimizers or counters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.checkpoint import read_checkpoint
from utils.errors import UserError, quoted, sentence_of

# Counters of Lightning's loops that count the steps of the run.
_OF_STEPS = ("epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress")
# Counters of what is never under way when a checkpoint is written: all numbers of a kind are equal.
_AT_REST = ("epoch_loop.scheduler_progress", "epoch_loop.val_loop.batch_progress")


def fit(
    trainer: Trainer, module: LightningModule, data: Any, val: Any = None, *, resumed: Path | None
) -> None:
    """Train, from the state of a checkpoint if one is given.

    Args:
        trainer: Trainer of the run.
        module: Module to train.
        data: Loader, or data module.
        val: Loader of the validation samples, if ``data`` is a loader.
        resumed: Checkpoint to resume; None starts from the module as it is.

    Raises:
        UserError: The state of the checkpoint is not one of this run.
    """
    check = _CheckRestored()
    if resumed is not None:
        trainer.callbacks.insert(0, check)  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, val, ckpt_path=resumed, weights_only=True)
    except Exception as error:
        if not check.is_restoring or sentence_of(error):
            raise
        raise _foreign(resumed, error) from error


def check_state(path: Path, module: LightningModule, optimizer: Optimizer) -> None:
    """Refuse a checkpoint whose tensors do not fit, before a trainer exists.

    Args:
        path: Checkpoint that may be resumed.
        module: Module that would resume it.
        optimizer: Its optimizer.

    Raises:
        UserError: The tensors are not those of this run.
    """
    checkpoint = read_checkpoint(path)
    try:
        check_tensors(checkpoint["state_dict"], module.state_dict(), "state_dict")
        (saved,) = checkpoint["optimizer_states"]
        _check_moments(optimizer, saved["state"], checkpoint["global_step"])
    except Exception as error:
        raise _foreign(path, error) from error


def _foreign(path: Path | None, error: Exception) -> UserError:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    reason = quoted(kind + " ".join(str(error).split()), 200)
    return UserError(
        f"{path} does not hold the state of this run, {reason}: use the last.ckpt of its run"
    )


def check_tensors(found: Mapping[str, Any], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise a ``ValueError`` unless tensors of a file fit: names, shapes, types, finite numbers.

    Args:
        found: Content of the file.
        expected: Tensors of the same shapes and types.
        what: Name of the content, for the error.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"{what} has other names than this run's")
    for name, like in expected.items():
        value = found[name]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{what} has another shape or type in {name}")
        is_count = not like.is_floating_point()
        if not value.isfinite().all() or (is_count and (value < 0).any()):
            raise ValueError(
                f"{what} has numbers in {name} that are not finite, or negative counts"
            )


class _CheckRestored(Callback):
    """Compare what Lightning restores with the objects that it is restored into."""

    def __init__(self) -> None:
        self.is_restoring = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.is_restoring = stage == "fit"

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self.is_restoring:
            return
        self.checkpoint = checkpoint
        check_tensors(checkpoint["state_dict"], pl_module.state_dict(), "state_dict")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checkpoint, optimizers = self.checkpoint, trainer.optimizers
        self.epochs, self.steps = checkpoint["epoch"] + 1, checkpoint["global_step"]
        loops = checkpoint["loops"]["fit_loop"]
        is_over = loops[_OF_STEPS[0]]["is_last_batch"]  # else it was written within an epoch
        self.epochs -= not is_over
        fresh = trainer.fit_loop.state_dict()
        if checkpoint["pytorch-lightning_version"] == pytorch_lightning.__version__:
            _check_names(loops, fresh)
        _check_loops(loops, fresh, self.epochs, self.steps, is_over=is_over)
        for optimizer, saved in zip(optimizers, checkpoint["optimizer_states"], strict=True):
            known = optimizer.state_dict()["param_groups"]
            if [group["params"] for group in saved["param_groups"]] != [g["params"] for g in known]:
                raise ValueError("optimizer_states has other parameters")
            _check_moments(optimizer, saved["state"], self.steps)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        if len(schedulers) != len(checkpoint["lr_schedulers"]):
            raise ValueError("lr_schedulers has another length")
        self.groups = [optimizer.state_dict()["param_groups"] for optimizer in optimizers]
        self.schedules = [dict(vars(scheduler)) for scheduler in schedulers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del self.checkpoint  # as Lightning, which frees its own
        rates = []
        for optimizer, known in zip(trainer.optimizers, self.groups, strict=True):
            groups = optimizer.state_dict()["param_groups"]
            for group, before in zip(groups, known, strict=True):
                rate, first = group["lr"], before["initial_lr"]
                rates.append(rate)
                other = [name for name in before if name != "lr" and group[name] != before[name]]
                if other or not isinstance(rate, float) or not 0 <= rate <= first:
                    raise ValueError(f"optimizer_states has another {(*other, 'lr')[0]}")
        for config, known in zip(trainer.lr_scheduler_configs, self.schedules, strict=True):
            kind = type(config.scheduler)
            done = self.steps if config.interval == "step" else self.epochs
            running = {"last_epoch": done, "_step_count": done + 1, "_last_lr": rates}
            found = vars(config.scheduler)
            other = [name for name, value in (known | running).items() if found[name] != value]
            # A file of another torch may have more names, but none of a method.
            other += [name for name in found.keys() - known if hasattr(kind, name)]
            if other:
                raise ValueError(f"lr_schedulers has another {other[0]}")
        self.is_restoring = False


def _check_moments(optimizer: Optimizer, saved: Mapping[int, Any], steps: int) -> None:
    """Compare what an optimizer keeps for each parameter with what one step of it creates."""
    probe = nn.Parameter(torch.zeros(1, 2))
    probe.grad = torch.zeros_like(probe)
    sample = type(optimizer)([probe], **optimizer.defaults)
    sample.step()
    created = sample.state[probe]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if set(saved) != set(range(len(parameters)) if created and steps else ()):
        raise ValueError("optimizer_states has another number of parameters")
    for index, found in saved.items():
        like = {k: parameters[index] if v.ndim else v for k, v in created.items()}
        check_tensors(found, like, "optimizer_states")
        if not 1 <= found.get("step", 1) <= steps:
            raise ValueError("optimizer_states has another step")


def _check_names(found: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Refuse counters that the same Lightning writes, and a file lacks."""
    for key, first in fresh.items():
        if key not in found:
            raise ValueError(f"loops has no {key}")
        if isinstance(first, dict):
            _check_names(found[key], first)


def _check_loops(
    found: Mapping[str, Any],
    fresh: Mapping[str, Any],
    epochs: int,
    steps: int,
    path: tuple[str, ...] = (),
    *,
    is_over: bool,
) -> None:
    """Compare the counters of Lightning's loops, in nested dicts, with those after whole epochs.

    Within an epoch, one more has started, and none is left to complete.

    A counter that a file of another Lightning lacks keeps its first value.
    """
    for key, first in fresh.items():
        here, value = (*path, key), found.get(key, first)
        if isinstance(first, dict):
            _check_loops(value, first, epochs, steps, here, is_over=is_over)
            continue
        expected = value
        if here[0] == "epoch_progress":  # completed after the checkpoint is written
            expected = epochs - (key == "completed" and is_over)
            expected += key in ("ready", "started") and not is_over
        elif key == "_batches_that_stepped" or (here[0] in _OF_STEPS and "total" in here):
            expected = steps
        elif here[0] in _AT_REST and key != "is_last_batch":
            expected = next((other for name, other in found.items() if name != key), value)
        if type(value) is not type(first) or value < 0 or value != expected:
            raise ValueError(f"loops has another {'/'.join(here)}")
