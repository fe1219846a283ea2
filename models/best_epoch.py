"""Which epoch of a training is kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from utils.restored import check_tensors


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
        """Keep copies of an epoch's tensors if it is the best so far; return whether. NaN never is.

        Args:
            score: Validation score of the epoch; larger is better.
            epoch: Number of the epoch, counted from 1.
            state: Tensors of the model by name, on any device.
        """
        if not score > self.score:
            return False
        self.score, self.epoch = score, epoch
        self.state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        return True

    def check(self, epochs: int, kept: Mapping[str, Tensor]) -> None:
        """Raise a ``ValueError`` for content of a file that no run has written.

        Args:
            epochs: Finished epochs of the run.
            kept: Tensors of the same names, shapes and types as ``state`` of a validated epoch.
        """
        if type(self.epoch) is not int or not 0 <= self.epoch <= epochs:
            raise ValueError("best has another epoch")
        is_score = 0 <= self.score <= 100 if self.epoch else self.score == -math.inf
        if not isinstance(self.score, float) or not is_score:
            raise ValueError("best has another score")
        check_tensors(self.state, kept if self.epoch else {}, "best")
