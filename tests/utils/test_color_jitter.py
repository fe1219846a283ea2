"""Colour operations against torchvision's on Pillow pictures, and against the standard library."""

import colorsys
from itertools import permutations

import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.references.pil_reference import (
    ADJUST,
    BRIGHTNESS,
    CONTRAST,
    HUE,
    PICTURES,
    SATURATION,
    from_pil,
    jitter,
    landscape,
    noise,
    to_pil,
)
from utils.color_jitter import ColorParams, blend, color_jitter, shift_hue, shift_hue_uint8, to_grey

ORDERS = list(permutations(range(4)))
# Brightness, contrast, saturation and hue. Torchvision cuts hue to whole steps of 1 / 255.
AMOUNTS = (1.31, 0.67, 1.38, -18 / 255)


def params(
    batch: int,
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0),
    hue: float | None = 0.0,
    grey: bool = False,
) -> ColorParams:
    return ColorParams(
        factors=torch.tensor([factors] * batch),
        blend_order=torch.tensor([[BRIGHTNESS, CONTRAST, SATURATION]] * batch),
        hue=None if hue is None else torch.full((batch,), hue),
        hue_slot=torch.zeros(batch, dtype=torch.long),
        to_grey=torch.full((batch,), grey),
    )


def params_of_orders(orders: list[tuple[int, ...]], amounts: tuple[float, ...]) -> ColorParams:
    """Split each order of all four operations into that of the blends and the place of hue."""
    return ColorParams(
        factors=torch.tensor([amounts[:HUE]] * len(orders)),
        blend_order=torch.tensor([[o for o in order if o != HUE] for order in orders]),
        hue=torch.full((len(orders),), amounts[HUE]),
        hue_slot=torch.tensor([order.index(HUE) for order in orders]),
        to_grey=torch.zeros(len(orders), dtype=torch.bool),
    )


def blend_one(picture: Tensor, operation: int, factor: float, rounded: bool = False) -> Tensor:
    return blend(picture[None].float(), torch.tensor([operation]), torch.tensor([factor]), rounded)[
        0
    ]


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("factor", [0.0, 0.61, 0.93, 1.0, 1.17, 1.39, 2.5])
@pytest.mark.parametrize("operation", [BRIGHTNESS, CONTRAST, SATURATION])
def test_blends_are_torchvisions(operation: int, factor: float, kind: str) -> None:
    """A factor of 2.5 clips much of the picture. Pillow cuts decimals off, half a level on average;
    that and the rounding of the mean grey is all that differs."""
    picture = PICTURES[kind](90, 120)
    theirs = from_pil(ADJUST[operation](to_pil(picture), factor))
    difference = blend_one(picture, operation, factor) - theirs
    assert difference.abs().mean() < 1
    assert difference.abs().max() < 2.5


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("factor", [0.61, 1.0, 1.17, 2.5])
@pytest.mark.parametrize("operation", [BRIGHTNESS, CONTRAST, SATURATION])
@pytest.mark.difference("rounding")
def test_rounded_blends_are_torchvisions_to_the_bit(
    operation: int, factor: float, kind: str
) -> None:
    picture = PICTURES[kind](90, 120)
    ours = blend_one(picture, operation, factor, rounded=True)
    different = ours != from_pil(ADJUST[operation](to_pil(picture), factor))
    assert different.float().mean() < 1e-3  # a last digit of float32 before the cut


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("turns", [-0.5, -0.1, -0.04, 0.0, 0.03, 0.1, 0.5])
def test_hue_is_torchvisions(turns: float, kind: str) -> None:
    """Pillow knows 256 hues and as many saturations, we know all."""
    picture = PICTURES[kind](90, 120)
    theirs = from_pil(TF.adjust_hue(to_pil(picture), turns))
    exact, rounded = (
        shift(picture[None].float(), torch.tensor([turns]))[0]
        for shift in (shift_hue, shift_hue_uint8)
    )
    assert (exact - theirs).abs().mean() < 2
    assert turns == 0 or torch.equal(rounded, theirs)


@given(st.tuples(*[st.integers(0, 255)] * 3), st.floats(-0.5, 0.5))
@pytest.mark.difference("hue")
def test_hue_turns_the_circle_of_the_standard_library(
    pixel: tuple[int, int, int], turns: float
) -> None:
    hue, saturation, value = colorsys.rgb_to_hsv(*(band / 255 for band in pixel))
    expected = torch.tensor(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)) * 255
    picture = torch.tensor(pixel).float().view(1, 3, 1, 1)
    ours = shift_hue(picture, torch.tensor([turns])).flatten()
    torch.testing.assert_close(ours, expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("amounts", [AMOUNTS, (0.62, 1.4, 0.7, 25 / 255), (1.4,) * 3 + (12 / 255,)])
def test_each_of_the_24_orders_is_torchvisions(
    amounts: tuple[float, float, float, float], kind: str
) -> None:
    picture = PICTURES[kind](64, 80)
    theirs = torch.stack([from_pil(jitter(to_pil(picture), amounts, order)) for order in ORDERS])
    batch = picture.float().expand(24, -1, -1, -1)
    exact = color_jitter(batch, params_of_orders(ORDERS, amounts))
    rounded = color_jitter(batch, params_of_orders(ORDERS, amounts), round_to_uint8=True)
    error, error_rounded = ((ours - theirs).abs().mean(dim=(1, 2, 3)) for ours in (exact, rounded))
    assert error.max() < 2
    assert error_rounded.max() < 0.1


def test_each_sample_gets_its_own_operations() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = noise(20, 30, bands=18).view(6, 3, 20, 30).float()
    drawn = ColorParams(
        factors=torch.rand(6, 3, generator=generator) + 0.5,
        blend_order=torch.rand(6, 3, generator=generator).argsort(dim=1),
        hue=torch.rand(6, generator=generator) - 0.5,
        hue_slot=torch.tensor([0, 1, 2, 3, 0, 1]),
        to_grey=torch.tensor([False, True] * 3),
    )
    assert drawn.hue is not None
    together = color_jitter(pictures, drawn)
    for i in range(6):
        alone = ColorParams(
            drawn.factors[i : i + 1],
            drawn.blend_order[i : i + 1],
            drawn.hue[i : i + 1],
            drawn.hue_slot[i : i + 1],
            drawn.to_grey[i : i + 1],
        )
        torch.testing.assert_close(together[i], color_jitter(pictures[i : i + 1], alone)[0])


@pytest.mark.parametrize("round_to_uint8", [False, True])
def test_neutral_amounts_change_nothing(round_to_uint8: bool) -> None:
    pictures = noise(20, 30)[None].float()
    ours = color_jitter(pictures, params(1), round_to_uint8)
    torch.testing.assert_close(ours, pictures, atol=0 if round_to_uint8 else 1e-2, rtol=0)
    assert torch.equal(color_jitter(pictures, params(1, hue=None), round_to_uint8), pictures)


def test_grey_is_pillows_luminance_in_all_bands() -> None:
    picture = landscape(40, 50)
    theirs = from_pil(TF.to_grayscale(to_pil(picture), num_output_channels=3))
    ours = color_jitter(picture[None].float(), params(1, hue=None, grey=True))[0]
    assert (ours - theirs).abs().max() <= 0.51
    rounded = color_jitter(picture[None].float(), params(1, hue=None, grey=True), True)[0]
    assert (rounded != theirs).float().mean() < 5e-3  # which way a half is rounded


def test_grey_of_many_bands_is_their_mean_and_hue_leaves_them_alone() -> None:
    pictures = noise(20, 30, bands=12)[None].float()
    grey = torch.stack([sum(pictures[0], torch.zeros(20, 30)) / 12] * 12)
    torch.testing.assert_close(to_grey(pictures)[0, 0], grey[0])
    torch.testing.assert_close(color_jitter(pictures, params(1, hue=0.3, grey=True))[0], grey)
    assert torch.equal(color_jitter(pictures, params(1, hue=0.3)), pictures)


def test_blends_of_many_bands_are_the_formulas() -> None:
    picture = 64 + noise(20, 30, bands=12).float() / 2  # far from clipping
    grey = picture.mean(dim=0)
    brightness, contrast, saturation = (blend_one(picture, op, 0.8) for op in range(3))
    torch.testing.assert_close(brightness, 0.8 * picture)
    torch.testing.assert_close(contrast, 0.8 * picture + 0.2 * picture.mean())
    torch.testing.assert_close(saturation, 0.8 * picture + 0.2 * grey)
