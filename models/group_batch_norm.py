"""Batch normalisation over groups of a batch, as if each group were on a device of its own.

On one device a query and its key share batch statistics, by which a network can recognise the other
images of its batch instead of learning what it sees (MoCo, section 3.3). Several devices prevent
this by shuffling the keys between them; groups do the same on one device.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with statistics over groups of samples while training.

    Parameters, buffers and evaluation are those of ``nn.BatchNorm2d``, so weights load anywhere.

    Args:
        num_features: Number of channels.
        group_size: Samples that share statistics; a last, smaller group joins its predecessor.
        **kwargs: Arguments of ``nn.BatchNorm2d``, which torchvision chooses.
    """

    def __init__(self, num_features: int, group_size: int, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        self.group_size = group_size

    def forward(self, input: Tensor) -> Tensor:
        count = max(1, len(input) // self.group_size)
        if not self.training or count == 1 or self.momentum is None:
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        sizes = [self.group_size] * (count - 1)
        groups = input.split([*sizes, len(input) - sum(sizes)])
        # All groups together change the running statistics as much as one batch would.
        momentum = 1 - (1 - self.momentum) ** (1 / count)
        return torch.cat([self._normalize(group, momentum) for group in groups])

    def _normalize(self, group: Tensor, momentum: float) -> Tensor:
        return F.batch_norm(
            group,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=momentum,
            eps=self.eps,
        )
