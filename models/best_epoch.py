"""Which epoch of a training is kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class BestEpoch:
    """The epoch with the best validation score so far; of equal scores, the earliest.

    Attributes:
        score: Score of this epoch.
        epoch: Its number, counted from 1; 0 if no epoch has been validated.
        state: Copies of its tensors on the CPU.
    """

    score: float = -math.inf
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def update(self, score: float, epoch: int, state: Mapping[str, Tensor]) -> None:
        """Keep an epoch that is better than all before it.

        Args:
            score: Its validation score, larger is better.
            epoch: Its number, counted from 1.
            state: Its tensors, which are copied.
        """
        if score > self.score:
            self.score, self.epoch = score, epoch
            self.state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
