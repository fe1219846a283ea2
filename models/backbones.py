"""ResNet encoders without their classifier, and the three sources of their weights."""

from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.normalization import InputSpec

PREFIX = "encoder_q."  # of the query encoder's tensors in a checkpoint
SOURCES = ("random", "imagenet", "pretrain")
RESNETS = tuple(name for name in list_models(module=torchvision.models) if "resne" in name)


class Encoder(nn.Sequential):
    """Torchvision ResNet up to its pooled features: (B, C, H, W) -> (B, num_features).

    The order of its children (conv1, bn1, relu, maxpool, layer1 to layer4, avgpool, flatten) gives
    the key names of the published SeCo checkpoints, ``encoder_q.0.weight`` and so on.

    Args:
        name: Name of a ResNet in torchvision.
        weights: Name of its weights there, or None for random ones.
        in_channels: Input bands; the published encoders have 3.
        norm_layer: Replacement of ``nn.BatchNorm2d``.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        in_channels: int = 3,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        if name not in RESNETS:
            raise UserError(f"unknown encoder {name}: the known ones are {' '.join(RESNETS)}")
        if in_channels < 3:
            raise UserError(f"an encoder needs 3 or more bands, not {in_channels}")
        resnet = get_model(name, weights=weights, norm_layer=norm_layer)
        if in_channels != 3:
            stem = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
            resnet.conv1 = stem
        super().__init__(*list(resnet.children())[:-1], nn.Flatten())
        self.num_features: int = resnet.fc.in_features


def add_backbone_args(parser: ArgumentParser) -> None:
    """Add the flags of ``load_encoder``."""
    parser.add_argument("--backbone_type", choices=SOURCES, default="imagenet", help="weights")
    parser.add_argument("--base_encoder", default="resnet18", help="ResNet for random and imagenet")
    parser.add_argument("--ckpt_path", type=Path, help="checkpoint of main_pretrain.py")


def load_encoder(
    source: str, name: str, ckpt_path: Path | None = None
) -> tuple[Encoder, InputSpec]:
    """Build an encoder and tell what input it expects.

    ``name`` is ignored for "pretrain", whose checkpoint names its own.
    """
    if source != "pretrain" and ckpt_path is not None:
        raise UserError(
            f"--ckpt_path {ckpt_path} is only read with --backbone_type pretrain: add it"
        )
    if source == "random":
        return Encoder(name), InputSpec.of_pictures()
    if source == "imagenet":  # the weights that pretrained=True meant in 2021
        return _imagenet_encoder(name), InputSpec.of_pictures()
    if ckpt_path is None:
        raise UserError("--backbone_type pretrain needs --ckpt_path")
    return _pretrained_encoder(ckpt_path)


def _imagenet_encoder(name: str) -> Encoder:
    """Fetch torchvision's weights; no network is the user's problem, not a bug."""
    try:
        return Encoder(name, weights="IMAGENET1K_V1")
    except OSError as error:
        raise UserError(f"cannot download the ImageNet weights of {name}: {error}") from error


def _pretrained_encoder(path: Path) -> tuple[Encoder, InputSpec]:
    """Rebuild the query encoder of a checkpoint, with the input contract that it carries."""
    checkpoint = read_checkpoint(path)
    hyper_parameters, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    name = hyper_parameters.get("base_encoder")
    if not isinstance(name, str) or name not in RESNETS:
        raise UserError(f"{path} is not a checkpoint of main_pretrain.py: its encoder is {name!r}")
    encoder = _load_weights(name, state, path)
    contract = hyper_parameters.get("input_spec")
    if contract is None:
        return encoder, InputSpec.of_pictures()
    try:
        spec = InputSpec.from_dict(contract)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} has a damaged input_spec: {error}") from error
    return encoder, spec


def _load_weights(name: str, state: dict[Any, Any], path: Path) -> Encoder:
    """Build the ResNet and load its tensors; any that do not fit or are NaN are a ``UserError``."""
    weights = {
        key.removeprefix(PREFIX): tensor
        for key, tensor in state.items()
        if isinstance(key, str) and key.startswith(PREFIX) and isinstance(tensor, Tensor)
    }
    stem = weights.get("0.weight")
    if stem is None or stem.ndim != 4 or stem.shape[1] < 3:
        raise UserError(
            f"{path} holds no encoder: {PREFIX}0.weight is no filter of 3 or more bands"
        )
    encoder = Encoder(name, in_channels=stem.shape[1])
    expected = {key: (tensor.shape, tensor.dtype) for key, tensor in encoder.state_dict().items()}
    found = {key: (tensor.shape, tensor.dtype) for key, tensor in weights.items()}
    wrong = sorted({key for key, _ in expected.items() ^ found.items()})
    if wrong:
        raise UserError(
            f"{path} does not fit a {name}: {len(wrong)} tensors are missing, too many or of "
            f"another shape or type, such as {PREFIX}{wrong[0]}"
        )
    broken = [key for key, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(f"{path} holds numbers that are not finite, such as in {PREFIX}{broken[0]}")
    encoder.load_state_dict(weights)
    return encoder
