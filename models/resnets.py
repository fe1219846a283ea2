"""Torchvision's ResNets: their names, and the tensors of each without its classifier."""

from collections.abc import Callable
from functools import cache
from itertools import chain

import torch
import torchvision
from torch import nn
from torchvision.models import ResNet, get_model, list_models

from utils.errors import UserError

RESNETS = tuple(name for name in list_models(module=torchvision.models) if "resne" in name)


def build_resnet(
    name: str,
    *,
    weights: str | None = None,
    in_channels: int = 3,
    norm_layer: Callable[..., nn.Module] | None = None,
) -> ResNet:
    """Build a ResNet with its classifier.

    Args:
        name: One of ``RESNETS``; another is a ``UserError``.
        weights: Name of its weights in torchvision, or None for random ones.
        in_channels: Input bands; other than 3 give a new first filter with random weights.
        norm_layer: Replacement of ``nn.BatchNorm2d``.
    """
    if name not in RESNETS:
        raise UserError(f"unknown encoder {name}: the known ones are {' '.join(RESNETS)}")
    resnet = get_model(name, weights=weights, norm_layer=norm_layer)
    if in_channels != 3:
        stem = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        resnet.conv1 = stem
    return resnet


@cache
def encoder_tensors(name: str, in_channels: int) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Tabulate shape and type of every tensor but the classifier's, without their memory."""
    with torch.device("meta"):
        resnet = build_resnet(name, in_channels=in_channels)
    tensors = chain(resnet.named_parameters(), resnet.named_buffers())
    return {
        key: (tensor.shape, tensor.dtype) for key, tensor in tensors if not key.startswith("fc.")
    }
