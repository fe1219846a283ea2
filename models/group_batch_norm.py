"""Batch normalisation over groups of a batch, as if each group were on a device of its own.

On one device a query and its key share batch statistics, by which a network can recognise the other
images of its batch instead of learning what it sees (MoCo, section 3.3). Several devices prevent
this by shuffling the keys between them; groups do the same on one device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with statistics over groups of samples while training.

    Parameters, buffers and evaluation are those of ``nn.BatchNorm2d``, so weights load anywhere.

    Args:
        num_features: Number of channels.
        group_size: Samples that share statistics; a last, smaller group joins its predecessor. 0
            for all samples of a view.
        **kwargs: Arguments of ``nn.BatchNorm2d``, which torchvision chooses.

    ``views`` are the equal parts of a batch that are normalised as if one came after the other.
    """

    views = 1

    def __init__(self, num_features: int, group_size: int, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        self.group_size = group_size

    def forward(self, input: Tensor) -> Tensor:
        size = len(input) // self.views
        count = max(1, size // (self.group_size or size))
        if not self.training or count * self.views == 1 or self.momentum is None:
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(self.views)
        sizes = [self.group_size] * (count - 1)
        sizes = [*sizes, size - sum(sizes)] * self.views
        # All groups of a view change the running statistics as much as one batch would.
        momentum = 1 - (1 - self.momentum) ** (1 / count)
        return torch.cat([self._normalize(group, momentum) for group in input.split(sizes)])

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


@contextmanager
def views_apart(network: nn.Module, count: int) -> Iterator[None]:
    """Let a batch of concatenated views have the batch statistics of ``count`` forward passes.

    Args:
        network: Network whose group batch norms are set until the block ends.
        count: Number of views in a batch.
    """
    norms = [module for module in network.modules() if isinstance(module, GroupBatchNorm2d)]
    for norm in norms:
        norm.views = count
    try:
        yield
    finally:
        for norm in norms:
            norm.views = 1
