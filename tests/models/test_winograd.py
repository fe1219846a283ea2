"""Winograd's convolution against the one of torch in 64-bit floats."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.backbones import Encoder
from models.winograd import WinogradConv2d, use_winograd, winograd


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 2), (4, 6), (3, 5), (7, 2)])
def test_convolution_and_gradients_are_those_of_the_definition(
    size: tuple[int, int], layout: torch.memory_format
) -> None:
    images, weight = torch.randn(3, 8, *size), torch.randn(5, 8, 3, 3)
    images = images.contiguous(memory_format=layout).requires_grad_()
    weight = weight.contiguous(memory_format=layout).requires_grad_()
    slow_images, slow_weight = (x.detach().double().requires_grad_() for x in (images, weight))

    found = winograd(images, weight)
    expected = F.conv2d(slow_images, slow_weight, padding=1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-5)

    factors = torch.randn_like(found)
    (found * factors).sum().backward()
    (expected * factors.double()).sum().backward()
    for fast, slow in ((images, slow_images), (weight, slow_weight)):
        assert fast.grad is not None
        assert slow.grad is not None
        torch.testing.assert_close(fast.grad.double(), slow.grad, rtol=0, atol=2e-4)


def test_an_encoder_keeps_its_function_and_its_names() -> None:
    plain = Encoder("resnet18").train()
    fast = copy.deepcopy(plain)
    use_winograd(fast)
    changed = [name for name, module in fast.named_modules() if type(module) is WinogradConv2d]
    # Of 3x3 filters without stride: all but the first of layer3 and layer4.
    rest = ("0.conv2", "1.conv1", "1.conv2")
    assert changed == [f"{layer}.{name}" for layer in (6, 7) for name in rest]
    assert fast.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(fast(images), plain(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_single_pixels_are_left_to_torch(dtype: torch.dtype) -> None:
    conv = nn.Conv2d(256, 4, kernel_size=3, padding=1, bias=False).to(dtype)
    fast = copy.deepcopy(nn.Sequential(conv))
    use_winograd(fast)
    assert type(fast[0]) is WinogradConv2d
    images = torch.randn(2, 256, 4, 4, dtype=dtype)
    assert torch.equal(fast(images), conv(images))
    pixels = torch.randn(2, 256, 1, 1)
    assert torch.equal(fast.float()(pixels), conv.float()(pixels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(images.float()), conv(images.float()))
