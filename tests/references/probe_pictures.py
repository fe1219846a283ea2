"""Pictures of a split that an encoder is evaluated on."""

import torch
from torch import Tensor

from utils.probe_data import ProbeData


def stacked(data: ProbeData, split: str) -> Tensor:
    """Return all pictures of a split, uint8, shape (N, bands, H, W)."""
    pictures = data.splits[split].take()
    return torch.stack([pictures[row][0] for row in range(len(pictures))])
