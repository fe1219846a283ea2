"""Change detection by a siamese encoder, and a U-Net decoder of the features' differences.

Shapes: B pairs of images, C bands, H x W pixels; five levels of 1/2, 1/4, 1/8, 1/16 and 1/32 size.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import Encoder

# Children of the encoder whose outputs are compared: stem, layer1, layer2, layer3 and layer4.
LEVELS = (2, 4, 5, 6, 7)
# The original takes the stem before batch norm and ReLU. Unlike it: see
# docs/differences.md, oscd-stem.
LEVELS_OF_THE_ORIGINAL = (0, 4, 5, 6, 7)
DROPOUT = 0.3  # as in the original


class SiameseEncoder(nn.Module):
    """Absolute differences of the features of two dates: (B, C, H, W) twice -> a list of tensors.

    Args:
        encoder: Runs on each date, up to the last of the levels.
        levels: Numbers of the children whose outputs are compared, ascending.

    Attributes:
        channels: Channels of each level.
    """

    def __init__(self, encoder: Encoder, levels: Sequence[int] = LEVELS) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = tuple(levels)
        stem = encoder[0]
        assert isinstance(stem, nn.Conv2d)
        was_training = encoder.training
        encoder.eval()  # whose statistics a look must not touch
        with torch.no_grad():
            features = self.features(torch.zeros(1, stem.in_channels, 32, 32))
        encoder.train(was_training)
        self.channels = [level.shape[1] for level in features]

    def forward(self, date_1: Tensor, date_2: Tensor) -> list[Tensor]:
        """Compare two dates, the finest level first."""
        pairs = zip(self.features(date_1), self.features(date_2), strict=True)
        return [(one - two).abs() for one, two in pairs]

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the output of every level."""
        outputs = []
        for number, child in enumerate(list(self.encoder)[: self.levels[-1] + 1]):
            images = child(images)
            if number in self.levels:
                outputs.append(images)
        return outputs


class DecoderBlock(nn.Module):
    """One step up: enlarge, reduce the channels, join the finer level.

    Args:
        in_channels: Of the coarse level.
        out_channels: Of the finer level, and of the output.
        dropout: Share of the channels that are left out in training.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.join = nn.Conv2d(2 * out_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return a tensor of the size of ``fine``."""
        enlarged = F.interpolate(coarse, size=fine.shape[-2:])
        joined = self.join(torch.cat([self.shrink(enlarged), fine], dim=1))
        return self.dropout(F.relu(self.norm(joined)))


class SegmentationModel(nn.Module):
    """Logits of change from two images of any size, (B, C, H, W) each -> (B, H, W).

    A side that 32 does not divide is enlarged by repetition and cut, exactly.

    Args:
        encoder: Trained or not, which its ``requires_grad`` tells.
        levels: See ``SiameseEncoder``.
        dropout: See ``DecoderBlock``.
    """

    def __init__(
        self, encoder: Encoder, levels: Sequence[int] = LEVELS, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.siamese = SiameseEncoder(encoder, levels)
        channels = self.siamese.channels
        self.blocks = nn.ModuleList(  # the coarsest first
            DecoderBlock(coarse, fine, dropout)
            for fine, coarse in reversed(list(pairwise(channels)))
        )
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, date_1: Tensor, date_2: Tensor) -> Tensor:
        """Return logits of the size of the images."""
        *finer, out = self.siamese(date_1, date_2)
        for block, level in zip(self.blocks, reversed(finer), strict=True):
            out = block(out, level)
        return self.head(F.interpolate(out, size=date_1.shape[-2:]))[:, 0]
