"""ResNet encoders without their classifier, and the three sources of their weights."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from models.encoder_file import SEQUENTIAL, read_encoder_file
from models.evaluation_args import DEFAULT_ENCODER, check_encoder_source
from models.resnets import build_resnet
from utils.errors import UserError
from utils.input_spec import PICTURE_BANDS, RGB_QUANTILES, InputSpec, letters, quantile_spec


class Encoder(nn.Sequential):
    """Torchvision ResNet up to its pooled features: (B, C, H, W) -> (B, num_features).

    The order of its children (conv1, bn1, relu, maxpool, layer1 to layer4, avgpool, flatten) gives
    the key names of the published SeCo checkpoints, ``encoder_q.0.weight`` and so on.

    Args:
        name: Name of a ResNet in torchvision.
        weights: Name of its weights in torchvision, or None for random ones.
        in_channels: Number of input bands; the published encoders have 3.
        norm_layer: Replacement of ``nn.BatchNorm2d``.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        in_channels: int = 3,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        if in_channels < 3:
            raise UserError(f"an encoder needs 3 or more bands, not {in_channels}")
        resnet = build_resnet(name, weights=weights, in_channels=in_channels, norm_layer=norm_layer)
        super().__init__(*list(resnet.children())[:-1], nn.Flatten())
        self.architecture = name
        self.num_features: int = resnet.fc.in_features


def load_encoder(
    source: str,
    name: str | None = None,
    ckpt_path: str | os.PathLike[str] | None = None,
    bands: Sequence[str] | None = None,
) -> tuple[Encoder, InputSpec]:
    """Build an encoder in eval mode, and the contract of its input.

    Args:
        source: One of ``models.evaluation_args.SOURCES``.
        name: Name of a torchvision ResNet; None uses that of the checkpoint, else the default.
        ckpt_path: Any file that ``models.encoder_file`` reads, for "pretrain" only.
        bands: Channels of a random encoder, or names for a file that does not name its bands.

    Returns:
        The encoder, whose batch norm uses its running statistics until ``train()`` is called, and
        the contract of its input. A random encoder of B4, B3 and B2, in any order, has the contract
        of a pre-training on SeCo's patches; other random encoders that of pictures.

    Raises:
        UserError: The file cannot be read, or has another architecture or other bands.
    """
    path = None if ckpt_path is None else Path(ckpt_path)
    check_encoder_source(source, path, bands)
    if path is not None:
        file = read_encoder_file(path, name, bands)
        encoder = Encoder(file.architecture, in_channels=len(file.spec.bands))
        positions = {child: position for position, child in SEQUENTIAL.items()}
        names = {key: key.partition(".") for key in file.tensors}
        encoder.load_state_dict(
            {f"{positions[child]}.{rest}": file.tensors[k] for k, (child, _, rest) in names.items()}
        )
        return encoder.eval(), file.spec
    name, bands = name or DEFAULT_ENCODER, tuple(bands or PICTURE_BANDS)
    if source == "imagenet":
        return _imagenet_encoder(name, bands).eval(), InputSpec.of_pictures(bands)
    encoder = Encoder(name, in_channels=len(bands)).eval()
    if RGB_QUANTILES.keys() >= set(bands):
        return encoder, quantile_spec(bands, RGB_QUANTILES)
    return encoder, InputSpec.of_pictures(bands)


def _imagenet_encoder(name: str, bands: tuple[str, ...]) -> Encoder:
    """Download torchvision's weights; a missing network is a ``UserError``."""
    if letters(bands) != PICTURE_BANDS:
        raise UserError(
            "--backbone_type imagenet was trained on red, green and blue, not on "
            f"{' '.join(bands)}: leave --bands out, or use --backbone_type random"
        )
    try:
        return Encoder(name, weights="IMAGENET1K_V1")  # what pretrained=True meant in 2021
    except OSError as error:
        raise UserError(
            f"cannot download the ImageNet weights of {name} ({error}): check the connection, or "
            "give a file by --backbone_type pretrain --ckpt_path"
        ) from error
