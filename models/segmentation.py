"""Change detection by a siamese encoder, and a U-Net decoder of the features' differences.

Shapes: B pairs of images, C bands, H x W pixels; five levels of 1/2, 1/4, 1/8, 1/16 and 1/32 size.
"""

from collections.abc import Sequence
from itertools import islice, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import UserError

# Children of a ResNet whose outputs are compared: stem, layer1, layer2, layer3 and layer4.
LEVELS = (2, 4, 5, 6, 7)
# The original takes the stem before batch norm and ReLU. Unlike it: see
# docs/differences.md, oscd-stem.
LEVELS_OF_THE_ORIGINAL = (0, 4, 5, 6, 7)
DROPOUT = 0.3  # as in the original


def get_segmentation_model(
    backbone: nn.Module, feature_indices: Sequence[int], feature_channels: Sequence[int]
) -> "UNet":
    """Put the decoder of the original on a backbone, for one class: change.

    Args:
        backbone: A ResNet, torchvision's or an ``Encoder``; its classifier is not run.
        feature_indices: Numbers of its children whose outputs are compared, such as ``LEVELS``.
        feature_channels: Channels of these outputs, the finest first; see ``level_channels``.
    """
    encoder = SegmentationEncoder(backbone, feature_indices, feature_channels, diff=True)
    return UNet(encoder, feature_channels, 1, concat_mult=1, dropout_rate=DROPOUT)


def level_channels(backbone: nn.Module, feature_indices: Sequence[int]) -> list[int]:
    """Return the number of channels of each level, for ``get_segmentation_model``.

    Args:
        backbone: Encoder whose first child is a convolution; none of its tensors changes.
        feature_indices: Indices of the children whose outputs are levels.
    """
    stem = next(backbone.children())
    assert isinstance(stem, nn.Conv2d)
    was_training = backbone.training
    backbone.eval()  # keeps its batch-norm statistics
    with torch.no_grad():
        levels = _level_features(
            backbone, feature_indices, torch.zeros(1, stem.in_channels, 32, 32)
        )
    backbone.train(was_training)
    return [level.shape[1] for level in levels]


def _level_features(
    backbone: nn.Module, feature_indices: Sequence[int], images: Tensor
) -> list[Tensor]:
    """Run a backbone up to its last level; return the outputs of its levels, the finest first."""
    outputs = []
    for number, child in enumerate(islice(backbone.children(), max(feature_indices) + 1)):
        images = child(images)
        if number in feature_indices:
            outputs.append(images)
    return outputs


class SegmentationEncoder(nn.Module):
    """Features of two dates, compared level by level.

    Args:
        backbone: Encoder whose children run one after the other, used in place.
        feature_indices: Indices of the children whose outputs are levels.
        feature_channels: Channels of each of these outputs.
        diff: Whether to return absolute differences of the dates rather than both, concatenated.

    Raises:
        UserError: The numbers of indices and of channels differ.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_indices: Sequence[int],
        feature_channels: Sequence[int],
        diff: bool = False,
    ) -> None:
        super().__init__()
        if len(feature_indices) != len(feature_channels):
            raise UserError(
                f"{len(feature_indices)} feature_indices need as many feature_channels, not "
                f"{len(feature_channels)}"
            )
        self.encoder = backbone
        self.feature_indices = tuple(sorted(feature_indices))
        self.diff = diff

    def forward(self, date_1: Tensor, date_2: Tensor) -> list[Tensor]:
        """Compare the features of two dates.

        Args:
            date_1: Inputs of the first date, shape (B, C, H, W).
            date_2: Inputs of the second date, shape (B, C, H, W).

        Returns:
            Absolute differences, or both features along the channels, of each level, the finest
            first.
        """
        dates = (_level_features(self.encoder, self.feature_indices, d) for d in (date_1, date_2))
        pairs = zip(*dates, strict=True)
        return [(one - two).abs() if self.diff else torch.cat([one, two], 1) for one, two in pairs]


class DecoderBlock(nn.Module):
    """One step of the decoder: enlarge, reduce the channels, join the finer level.

    Args:
        in_channels: Channels of the coarser level.
        out_channels: Channels of the finer level and of the output.
        dropout: Share of the output's channels that training drops, in 0..1.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.join = nn.Conv2d(2 * out_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Join two levels: features of shape (B, out_channels, H, W).

        Args:
            coarse: Features of the coarser level, shape (B, in_channels, h, w).
            fine: Features of the finer level, shape (B, out_channels, H, W).
        """
        enlarged = F.interpolate(coarse, size=fine.shape[-2:])
        joined = self.join(torch.cat([self.shrink(enlarged), fine], dim=1))
        return self.dropout(F.relu(self.norm(joined)))


class UNet(nn.Module):
    """Logits per pixel from two images of any size: (B, C, H, W) twice -> (B, classes, H, W).

    A side that 32 does not divide is enlarged by repetition and cut, exactly.

    Args:
        encoder: Compares the features of the two dates.
        feature_channels: Channels of each level of the backbone, the finest first.
        n_classes: Channels of the output.
        concat_mult: How many times these channels a compared level has: 1 for differences, 2 for
            concatenated dates.
        dropout_rate: See ``DecoderBlock``.
    """

    def __init__(
        self,
        encoder: SegmentationEncoder,
        feature_channels: Sequence[int],
        n_classes: int,
        concat_mult: int = 2,
        dropout_rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.siamese = encoder
        channels = [concat_mult * count for count in feature_channels]
        self.blocks = nn.ModuleList(  # the coarsest first
            DecoderBlock(coarse, fine, dropout_rate)
            for fine, coarse in reversed(list(pairwise(channels)))
        )
        self.head = nn.Conv2d(channels[0], n_classes, 1)

    @property
    def encoder(self) -> SegmentationEncoder:
        """The siamese encoder, by its name in the original; checkpoints have the other name."""
        return self.siamese

    def forward(self, date_1: Tensor, date_2: Tensor) -> Tensor:
        """Return logits of the size of the images, shape (B, number of classes, H, W).

        Arguments as in ``SegmentationEncoder.forward``.
        """
        *finer, out = self.siamese(date_1, date_2)
        for block, level in zip(self.blocks, reversed(finer), strict=True):
            out = block(out, level)
        logits: Tensor = self.head(F.interpolate(out, size=date_1.shape[-2:]))
        return logits
