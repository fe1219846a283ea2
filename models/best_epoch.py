"""Which epoch of a training is kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class BestEpoch:
    """The epoch with the best validation score so far; of equal scores, the earliest.

    It is a part of each checkpoint, so that a run may resume in another folder.

    Attributes:
        score: Score of this epoch.
        epoch: Its number, counted from 1; 0 if no epoch has been validated.
        state: Copies of its tensors on the CPU.
    """

    score: float = -math.inf
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def update(self, score: float, epoch: int, state: Mapping[str, Tensor]) -> bool:
        """Keep copies of the tensors of an epoch that is better than all before it; NaN never is.

        Args:
            score: Validation score of the epoch; larger is better.
            epoch: Number of the epoch, counted from 1.
            state: Tensors of the model by name, on any device.

        Returns:
            Whether the epoch is the best so far.
        """
        if not score > self.score:
            return False
        self.score, self.epoch = score, epoch
        self.state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        return True
