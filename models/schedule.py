"""Learning rate as a function of the fraction of epochs that is done."""

import math
from collections.abc import Sequence

SCHEDULES = ("step", "cosine")


def lr_factor(
    epoch: float,
    max_epochs: int,
    *,
    kind: str = "step",
    milestones: Sequence[int] = (),
    warmup_epochs: float = 0,
) -> float:
    """Return the factor of the initial learning rate.

    Args:
        epoch: Epochs done so far, with fractions, 0 .. ``max_epochs``.
        max_epochs: Length of the run; the cosine ends there.
        kind: "step" divides by ten at each milestone, as SeCo; "cosine" falls to 0, as MoCo-v2.
        milestones: Epochs of the steps.
        warmup_epochs: Epochs during which the factor rises linearly from 0.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    if kind == "step":
        return float(0.1 ** sum(epoch >= milestone for milestone in milestones))
    done = (epoch - warmup_epochs) / max(max_epochs - warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
