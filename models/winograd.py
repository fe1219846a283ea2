"""3x3 convolutions of many channels on a CPU, with 4/9 of the products: Winograd's F(2x2, 3x3).

Lavin and Gray 2016, section 4.1, https://arxiv.org/abs/1509.09308. Shapes: B images, C channels in,
D out, N tiles of 2 x 2 output pixels, each from 4 x 4 input pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# With fewer channels, the transforms cost more than the products save.
_MIN_CHANNELS = 256
# The matrices B^T, G and A^T of the paper; a transform of both axes is one Kronecker product.
_INPUT, _FILTER, _OUTPUT = (
    torch.kron(matrix, matrix)
    for matrix in (
        torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
        torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
        torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]]),
    )
)


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution; float32 on a CPU takes Winograd's algorithm, all else that of torch."""

    def forward(self, input: Tensor) -> Tensor:
        is_float = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        is_batch = input.ndim == 4 and len(input) > 0 and min(input.shape[2:]) > 1
        if input.device.type == "cpu" and is_float and is_batch:
            return winograd(input, self.weight)
        return super().forward(input)


def use_winograd(network: nn.Module) -> None:
    """Let the convolutions of a network that gain from it use Winograd's algorithm, in place."""
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
            and (module.groups, module.dilation, module.bias) == (1, (1, 1), None)
            and module.in_channels >= _MIN_CHANNELS
        ):
            module.__class__ = WinogradConv2d


def winograd(images: Tensor, weight: Tensor) -> Tensor:
    """Convolve with 3x3 filters, stride 1 and padding 1: shape (B, D, H, W), channels last.

    Args:
        images: float32, shape (B, C, H, W), fastest with channels last.
        weight: float32, shape (D, C, 3, 3), fastest with channels last.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
    tiles = _Tiles.apply(padded)  # (4, 4, B, H / 2, W / 2, C)
    rows, columns = tiles.shape[3:5]
    inputs = (_INPUT @ tiles.view(16, -1)).view(16, -1, channels)  # (16, N, C)
    filters = (_FILTER @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(16, -1, channels)
    outputs = _OUTPUT @ (inputs @ filters.mT).view(16, -1)  # (4, N * D)
    pixels = outputs.view(2, 2, batch, rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
    whole = pixels.reshape(batch, 2 * rows, 2 * columns, -1)
    return whole[:, :height, :width].permute(0, 3, 1, 2)


class _Tiles(torch.autograd.Function):
    """Tiles of 4 x 4 pixels, two apart: (B, H + 2, W + 2, C) -> (4, 4, B, H / 2, W / 2, C).

    The gradient of ``Tensor.unfold`` takes twice as long.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor) -> Tensor:
        ctx.shape = padded.shape
        return padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(4, 5, 0, 1, 2, 3).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        padded = grad.new_zeros(ctx.shape)
        height, width = (2 * count for count in grad.shape[3:5])
        for row in range(4):
            for column in range(4):
                here = padded[:, row : row + height : 2, column : column + width : 2]
                here += grad[row, column]
        return padded
