"""Training steps with numbers that are not finite: undo them, count them, stop when they are many.

A run whose steps are all finite computes the same bits as without these checks.
"""

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from utils.distributed import gather
from utils.errors import UserError
from utils.flags import LARGEST_COUNT

FLAG = "--max_bad_steps"
# Chen and He 2021, figure 2: the spread of a collapsed network is 0, that of others about 1.
_COLLAPSED = 0.01
_MANY_LOGS = 5  # in a row; the spread is low at the start


class StepGuard(nn.Module):
    """Find a step that is not finite in any process, and undo it in all of them.

    Where the host sees the numbers at once, on a CPU, the weights and momenta keep their values. A
    GPU is not waited for: there the step has a gradient of zero, and momentum continues.

    Args:
        networks: Networks whose batch-norm statistics belong to the step.

    ``count`` is the number of bad steps, ``first`` the first one of those in a row that the last
    step ends, or -1; both are on the device.
    """

    count: Tensor
    first: Tensor

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        modules = (module for network in networks for module in network.modules())
        self._norms = [each for each in modules if isinstance(each, nn.BatchNorm2d)]
        self.register_buffer("count", torch.tensor(0), persistent=False)
        self.register_buffer("first", torch.tensor(-1), persistent=False)

    def begin(self) -> None:
        """Keep the running statistics as they are before the step."""
        self._kept = torch.cat(self._statistics())

    @torch.no_grad()
    def end(
        self, step: int, values: Sequence[Tensor], parameters: Sequence[nn.Parameter]
    ) -> Tensor:
        """Undo the step if a value or gradient is not finite, in any process.

        Args:
            step: Number of the step.
            values: Loss and keys.
            parameters: Parameters whose gradients are checked.

        Returns:
            Whether the step is bad, bool, shape (), on the device; the same in all processes.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = [value.isfinite().all() for value in values]
        if gradients:
            finite.append(get_total_norm(gradients).isfinite())
        bad = gather(~torch.stack(finite).all()[None]).any()
        self.count += bad
        self.first.copy_(torch.where(bad, torch.where(self.first < 0, step, self.first), -1))
        if _answers_at_once(bad):
            if bad:
                self._restore(self._kept)
                for parameter in parameters:
                    parameter.grad = None  # SGD leaves out such a parameter, and its momentum
        else:
            self._restore(torch.where(bad, self._kept, torch.cat(self._statistics())))
            for gradient in gradients:
                gradient.masked_fill_(bad, 0)
        return bad

    def _statistics(self) -> list[Tensor]:
        pairs = [(norm.running_mean, norm.running_var) for norm in self._norms]
        return [tensor for pair in pairs for tensor in pair if tensor is not None]

    def _restore(self, values: Tensor) -> None:
        statistics = self._statistics()
        # No public function copies many tensors in one kernel.
        torch._foreach_copy_(statistics, values.split([each.numel() for each in statistics]))


def _answers_at_once(tensor: Tensor) -> bool:
    """Return whether reading a tensor does not wait for a device."""
    return tensor.device.type == "cpu"


class BadSteps(Callback):
    """Report bad steps, and stop a run that has too many; no checkpoint is written after one.

    On a GPU the count is read when values are logged anyway.

    Args:
        max_bad_steps: Bad steps of a whole run that are skipped, 0 or more.
    """

    def __init__(self, max_bad_steps: int) -> None:
        self.max_bad_steps = max_bad_steps
        self._count = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _guard(pl_module).count.fill_(self._count)  # of the run that is resumed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_logged = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if is_logged or _answers_at_once(_guard(pl_module).count):
            self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)
        self._check_weights(trainer, pl_module)
        if trainer.current_epoch + 1 == trainer.max_epochs and not pl_module.is_last_step_good:
            self._stop(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check_weights(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        count = state_dict["count"]
        if type(count) is not int or not 0 <= count < LARGEST_COUNT:
            raise ValueError("callbacks has another count of bad steps")
        self._count = count

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The last step may have changed the weights so that only the next loss would show it.
        finite = torch.stack([weights.isfinite().all() for weights in pl_module.parameters()])
        if not finite.all():
            raise UserError(_sentence("the weights are", trainer.global_step - 1))

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before, self._count = self._count, int(_guard(pl_module).count)
        if self._count > self.max_bad_steps:
            self._stop(trainer, pl_module)
        if self._count > before and trainer.is_global_zero:
            text = f"warning: {self._count} steps were skipped, up to {trainer.global_step - 1}"
            cause = f"loss, keys or gradients were not finite ({FLAG} {self.max_bad_steps})"
            tqdm.write(f"{text}: {cause}", file=sys.stderr)

    def _stop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        first = int(_guard(pl_module).first)
        step = trainer.global_step - 1 if first < 0 else first
        text = _sentence("the loss, keys or gradients are", step)
        raise UserError(f"{text} ({self._count} steps were skipped, see {FLAG})")


def bad_steps(module: LightningModule) -> int:
    """Return how many steps of a run were skipped."""
    return int(_guard(module).count)


def _guard(pl_module: LightningModule) -> StepGuard:
    guard = pl_module.guard
    assert isinstance(guard, StepGuard)
    return guard


def _sentence(what: str, step: int) -> str:
    return (
        f"{what} not finite at step {step}: start again with a lower --learning_rate, or with "
        "--precision 32-true; a good checkpoint, if there is one, is kept"
    )


class CollapseWarning(Callback):
    """Warn once about a space whose keys have been almost the same in several logs in a row."""

    def __init__(self) -> None:
        self._lows: dict[str, int] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train/spread_"):
                lows = self._lows.get(name, 0)
                self._lows[name] = lows + 1 if value < _COLLAPSED else lows * (lows > _MANY_LOGS)
                if self._lows[name] == _MANY_LOGS:
                    warnings.warn(
                        f"{name} was below {_COLLAPSED} in {_MANY_LOGS} logs in a row, until step "
                        f"{trainer.global_step - 1}: all images have nearly the same key, the "
                        "network collapses; lower --learning_rate, or check the data",
                        stacklevel=2,
                    )
