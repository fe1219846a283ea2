"""Torchvision's ResNets and a slim one: names, and the tensors without the classifier."""

from collections.abc import Callable
from functools import cache
from itertools import chain

import torch
import torchvision
from torch import nn
from torchvision.models import ResNet, get_model, list_models
from torchvision.models.resnet import BasicBlock

from utils.errors import UserError

# ResNet-18 with a quarter of its channels, 1/16 of its arithmetic: for demos and tests on a CPU.
SLIM = "resnet18_slim"
_SLIM_CHANNELS = (16, 32, 64, 128)  # of the four stages
RESNETS = (*(name for name in list_models(module=torchvision.models) if "resne" in name), SLIM)

Norm = Callable[..., nn.Module]


def build_resnet(
    name: str,
    *,
    weights: str | None = None,
    in_channels: int = 3,
    norm_layer: Norm | None = None,
) -> ResNet:
    """Build a ResNet with its classifier.

    Args:
        name: One of ``RESNETS``; another name is a ``UserError``.
        weights: Name of its weights in torchvision, or None for random ones. ``SLIM`` has none.
        in_channels: Number of input bands; if not 3, the first filter is new, with random weights.
        norm_layer: Replacement of ``nn.BatchNorm2d``.
    """
    if name not in RESNETS:
        raise UserError(f"unknown encoder {name}: the known ones are {' '.join(RESNETS)}")
    if name == SLIM and weights is not None:
        raise UserError(f"{SLIM} has no {weights} weights: use resnet18, or random weights")
    if name == SLIM:
        resnet = _build_slim(norm_layer or nn.BatchNorm2d)
    else:
        resnet = get_model(name, weights=weights, norm_layer=norm_layer)
    if in_channels != 3:
        resnet.conv1 = _stem(in_channels, resnet.conv1.out_channels)
    return resnet


def _build_slim(norm: Norm) -> ResNet:
    """Build a ResNet-18 whose stages have ``_SLIM_CHANNELS`` channels instead of 64 to 512."""
    resnet = ResNet(BasicBlock, [1, 1, 1, 1])  # its stages are replaced
    previous = _SLIM_CHANNELS[0]
    resnet.conv1, resnet.bn1 = _stem(3, previous), norm(previous)
    for number, channels in enumerate(_SLIM_CHANNELS, start=1):
        stride, shortcut = 1, None  # the first stage's input has its size and its channels already
        if number > 1:
            projection = nn.Conv2d(previous, channels, kernel_size=1, stride=2, bias=False)
            stride, shortcut = 2, nn.Sequential(projection, norm(channels))
        first = BasicBlock(previous, channels, stride, shortcut, norm_layer=norm)
        second = BasicBlock(channels, channels, norm_layer=norm)
        setattr(resnet, f"layer{number}", nn.Sequential(first, second))
        previous = channels
    resnet.fc = nn.Linear(previous, resnet.fc.out_features)
    for module in resnet.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return resnet


def _stem(in_channels: int, out_channels: int) -> nn.Conv2d:
    stem = nn.Conv2d(in_channels, out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem


@cache
def encoder_tensors(name: str, in_channels: int) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """List shape and type of every tensor but the classifier's, without allocating them.

    Args:
        name: Name of a torchvision ResNet, or "resnet18_slim".
        in_channels: Number of input channels.
    """
    with torch.device("meta"):
        resnet = build_resnet(name, in_channels=in_channels)
    tensors = chain(resnet.named_parameters(), resnet.named_buffers())
    return {
        key: (tensor.shape, tensor.dtype) for key, tensor in tensors if not key.startswith("fc.")
    }
