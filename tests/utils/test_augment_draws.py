"""The parameters of the views are distributed as torchvision and the originals draw them.

Distributions are compared by Kolmogorov-Smirnov tests with fixed seeds; ties only make them milder.
"""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import ColorJitter, RandomResizedCrop

from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.view_draws import Draws, blur_sigma, color_params, crop_boxes, draw_views

CONFIG = AugmentConfig()
ALWAYS = replace(CONFIG, jitter_prob=1.0, blur_prob=1.0)
OURS, THEIRS = 20_000, 2000


def draws(count: int = OURS, stream: int = 0) -> Draws:
    epochs = torch.zeros(count, dtype=torch.long)
    return Draws(sample_keys(5, epochs, torch.arange(count)), stream)


def torchvision_boxes(height: int, width: int, scale: tuple[float, float]) -> Tensor:
    patch = torch.empty(1, height, width)
    draw = RandomResizedCrop.get_params
    boxes = [draw(patch, list(scale), [3 / 4, 4 / 3]) for _ in range(THEIRS)]
    return torch.tensor(boxes, dtype=torch.float32)


def traits(boxes: Tensor, height: int, width: int) -> dict[str, Tensor]:
    """Describe boxes by numbers; positions relative to the room that a box leaves."""
    top, left, box_height, box_width = boxes.unbind(1)
    return {
        "area": box_height * box_width,
        "ratio": box_width / box_height,
        "height": box_height,
        "width": box_width,
        "top": (top + 0.5) / (height - box_height + 1),
        "left": (left + 0.5) / (width - box_width + 1),
        "bottom": top + box_height,
        "right": left + box_width,
    }


def assert_same_distribution(ours: Tensor, theirs: Tensor, name: str = "") -> None:
    result = stats.ks_2samp(ours.double().numpy(), theirs.double().numpy())
    assert result.pvalue > 1e-3, f"{name}: distance {result.statistic:.3f}"


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((264, 264), (0.2, 1.0)),
        ((264, 264), (0.05, 0.3)),
        ((96, 96), (0.2, 1.0)),
        ((96, 96), (0.05, 0.3)),
        ((64, 80), (0.2, 1.0)),
        ((80, 61), (0.99, 1.0)),
    ],
    ids=str,
)
def test_crops_are_distributed_as_torchvisions(
    shape: tuple[int, int], scale: tuple[float, float]
) -> None:
    ours = traits(crop_boxes(draws(), *shape, scale), *shape)
    theirs = traits(torchvision_boxes(*shape, scale), *shape)
    for name, values in ours.items():
        assert_same_distribution(values, theirs[name], name)


@pytest.mark.parametrize(
    ("shape", "always"),
    # The last two leave the ratios of 3/4 to 4/3: no try can fit, in none of the ten.
    [((264, 264), False), ((60, 80), False), ((50, 100), True), ((101, 33), True)],
    ids=str,
)
def test_crop_without_a_fitting_try_is_torchvisions_largest(
    shape: tuple[int, int], always: bool
) -> None:
    """At 99 to 100 % of the area few tries fit: the fallback is frequent, and exact."""
    scale = (0.99, 1.0)
    ours = crop_boxes(draws(), *shape, scale)
    theirs = torchvision_boxes(*shape, scale)
    fallback = theirs.mode(dim=0).values  # certain where it is all there is
    share_ours = (ours == fallback).all(dim=1).float().mean().item()
    share_theirs = (theirs == fallback).all(dim=1).float().mean().item()
    assert share_theirs > 0.1
    assert (share_ours, share_theirs) == (1, 1) if always else share_theirs < 1
    assert share_ours == pytest.approx(share_theirs, abs=4 * 0.5 / math.sqrt(THEIRS))


@pytest.mark.parametrize("strength", [(0.4, 0.4, 0.4, 0.1), (0.8, 1.3, 0.2, 0.5)], ids=str)
def test_colour_amounts_are_distributed_as_torchvisions(
    strength: tuple[float, float, float, float],
) -> None:
    jitter = ColorJitter(*strength)
    theirs = torch.tensor(
        [
            jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)[1:]
            for _ in range(THEIRS)
        ]
    )
    ours = color_params(draws(), replace(ALWAYS, color_jitter=strength))
    assert ours.hue is not None
    for amount, theirs_of_amount in zip([*ours.factors.T, ours.hue], theirs.T, strict=True):
        assert_same_distribution(amount, theirs_of_amount)


def test_all_24_orders_are_equally_likely() -> None:
    ours = color_params(draws(), ALWAYS)
    order = (ours.blend_order * torch.tensor([9, 3, 1])).sum(dim=1) * 4 + ours.hue_slot
    _, counts = order.unique(return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_probabilities_are_those_of_the_configuration() -> None:
    """MoCo-v2: jitter 0.8, grey 0.2, blur 0.5."""
    drawn = draws()
    color, sigma = color_params(drawn, CONFIG), blur_sigma(drawn, CONFIG)
    assert color.hue is not None
    changed = (color.factors != 1).any(dim=1)
    assert torch.equal(changed, color.hue != 0)  # jitter comes as a whole or not at all
    for share, expected in ((changed, 0.8), (color.to_grey, 0.2), (sigma > 0, 0.5)):
        deviation = math.sqrt(expected * (1 - expected) / OURS)
        assert share.float().mean().item() == pytest.approx(expected, abs=4 * deviation)


def test_sigma_is_uniform_where_there_is_blur() -> None:
    sigma = blur_sigma(draws(), CONFIG)
    sigma = sigma[sigma > 0]
    assert stats.kstest(sigma.double().numpy(), stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_parameters_of_a_view_are_uncorrelated() -> None:
    drawn = draws()
    boxes = crop_boxes(drawn, 264, 264, (0.2, 0.5))
    color, sigma = color_params(drawn, ALWAYS), blur_sigma(drawn, ALWAYS)
    flip = drawn.below(0.5)
    assert color.hue is not None
    top, left, height, width = boxes.unbind(1)
    numbers = [
        top / (265 - height),
        left / (265 - width),
        height * width,
        width / height,
        *color.factors.T,
        color.hue,
        color.hue_slot,
        color.to_grey,
        *color.blend_order.T[:2],
        sigma,
        flip,
    ]
    correlation = torch.corrcoef(torch.stack([number.double() for number in numbers]))
    correlation[10, 11] = correlation[11, 10] = 0  # two places of one permutation exclude others
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / math.sqrt(OURS)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("hue", [0.0, 0.1])
def test_views_drawn_together_are_those_drawn_alone(rotate: bool, hue: float) -> None:
    config = replace(CONFIG, rotate=rotate, color_jitter=(0.4, 0.4, 0.4, hue))
    keys, size = sample_keys(5, torch.full((7,), 2), torch.arange(7)), (96, 64)
    streams = {0: False, 1: True, 2: False, 3: True}
    together = draw_views(keys, streams, size, config)
    for (stream, synthetic), drawn in zip(streams.items(), together, strict=True):
        rows = [draw_views(key[None], {stream: synthetic}, size, config)[0] for key in keys]
        assert (drawn.synthetic, drawn.hue) == (synthetic, synthetic and hue > 0)
        assert torch.equal(drawn.values, torch.cat([row.values for row in rows]))


def test_hue_of_zero_costs_no_hue() -> None:
    assert color_params(draws(2), replace(CONFIG, color_jitter=(0.4, 0.4, 0.4, 0.0))).hue is None
