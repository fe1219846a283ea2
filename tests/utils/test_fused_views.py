"""The GPU's kernels, interpreted on the CPU, against the plain chain of torch operations."""

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from utils.augment_config import AugmentConfig
from utils.color_jitter import ColorParams, color_jitter, grey_weights
from utils.data import sample_keys
from utils.input_spec import InputSpec, quantile_spec
from utils.resample import gaussian_taps, resize_map, taps_map
from utils.transforms import Augment
from utils.view_draws import ViewDraws

pytest.importorskip("triton", reason="Triton is not installed")
from utils import fused_views

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # there the kernels are interpreted
LEVEL = 0.1  # of 255; fp16 alone is wrong by up to 1/16 of a level


def stretch(bands: int) -> torch.Tensor:
    """Return a curved table of 0..255, another one for each band."""
    curve = torch.linspace(0, 1, 256)[None] ** torch.linspace(0.5, 2, bands)[:, None]
    return (255 * curve).to(DEVICE)


def all_orders(bands: int) -> tuple[torch.Tensor, ColorParams]:
    """Return one sample for each of the 24 orders of four operations, packed and as columns."""
    generator = torch.Generator().manual_seed(bands)
    order = torch.tensor(list(itertools.permutations(range(3))) * 4)
    slot = torch.arange(4).repeat_interleave(6)
    factors = 0.2 + 1.6 * torch.rand(24, 3, generator=generator)
    hue = torch.rand(24, generator=generator) - 0.5
    grey = torch.rand(24, generator=generator) < 0.25
    single = torch.stack([hue, slot.float(), grey.float()], dim=1)
    values = torch.cat([factors, order.float(), single], dim=1)
    draws = ViewDraws(torch.nn.functional.pad(values, (4, 3)).to(DEVICE), True, bands == 3)
    return draws.values[:, 4:13], draws.color


@pytest.mark.parametrize(("bands", "size"), [(3, (7, 11)), (1, (9, 7)), (12, (8, 5))])
def test_colour_is_that_of_the_plain_chain_in_all_orders(bands: int, size: tuple[int, int]) -> None:
    stored = torch.randint(0, 256, (24, bands, *size), dtype=torch.uint8, device=DEVICE)
    table, weights = stretch(bands), grey_weights(bands).to(DEVICE)
    packed, params = all_orders(bands)
    hue = bands == 3
    sums = fused_views.grey_sums(stored, table, weights, packed, hue, False)
    ours = fused_views.pictures(stored, table, weights, packed, sums, hue, False)
    pictures = torch.stack([table[b][stored[:, b].long()] for b in range(bands)], dim=1)
    expected = color_jitter(pictures, params)
    assert (ours.transpose(1, 2).float() - expected).abs().max() < LEVEL


def test_eight_bit_colour_rounds_where_pillow_does() -> None:
    """A sum of bands that ends exactly at a half may round either way: 1 level in few pixels."""
    stored = torch.randint(0, 256, (24, 3, 13, 11), dtype=torch.uint8, device=DEVICE)
    table, weights = stretch(3).round(), grey_weights(3).to(DEVICE)
    packed, params = all_orders(3)
    sums = fused_views.grey_sums(stored, table, weights, packed, True, True)
    ours = fused_views.pictures(stored, table, weights, packed, sums, True, True)
    pictures = torch.stack([table[b][stored[:, b].long()] for b in range(3)], dim=1)
    error = (ours.transpose(1, 2).float() - color_jitter(pictures, params, True)).abs()
    assert error.max() <= 1
    assert (error > 0).float().mean() < 1e-3


def test_maps_are_those_of_resample() -> None:
    boxes = torch.tensor([[0.0, 3, 20, 9], [5, 0, 33, 33], [2, 2, 1, 2]], device=DEVICE)
    for first in (0, 1):
        start, length = boxes[:, first], boxes[:, first + 2]
        ours = fused_views.resize_map(start, length, 40, 9)
        theirs = resize_map(start, length, 40, 9)
        torch.testing.assert_close(ours.float(), theirs, atol=1e-3, rtol=0)
    sigma = torch.tensor([0.0, 0.1, 0.7, 1.5, 2.0], device=DEVICE)
    taps = gaussian_taps(sigma, 2.0)
    ours, theirs = fused_views.blur_map(taps, 12), taps_map(taps, 12)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("synthetic", [True, False])
@pytest.mark.parametrize("crop_first", [True, False])
@pytest.mark.parametrize(("bands", "rounded"), [(3, True), (3, False), (12, False)])
def test_views_are_those_of_the_plain_chain(
    synthetic: bool, crop_first: bool, bands: int, rounded: bool
) -> None:
    names = [f"X{number}" for number in range(bands)]
    quantiles = {name: (200.0 + 9 * i, 3000.0 + 99 * i) for i, name in enumerate(names)}
    spec = quantile_spec(names, quantiles) if bands != 3 else InputSpec.of_pictures()
    config = AugmentConfig(crop_size=14, rotate=True, crop_first=crop_first, round_to_uint8=rounded)
    augment = Augment(spec, config).to(DEVICE)
    smooth = torch.rand(3, bands, 5, 4, generator=torch.Generator().manual_seed(1))
    patches = (255 * torch.nn.functional.interpolate(smooth, (20, 17), mode="bilinear")).byte()
    # Patches of one date among several are not contiguous.
    stored = torch.stack([patches, patches.flip(0)], dim=1)[:, 0].to(DEVICE)
    keys = sample_keys(3, torch.zeros(3, dtype=torch.long), torch.arange(3))
    draws = augment.draw(keys, 1, synthetic, (20, 17))
    draws = replace(draws, values=draws.values.to(DEVICE))
    ours, expected = augment._fused(stored, draws, fused_views), augment._batched(stored, draws)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    error = (ours - expected).abs() * augment.std
    if rounded:  # to whole levels, which fp16 puts on the other side of a half in some pixels
        assert error.mean() < 0.1
    else:
        assert error.max() < 5 * LEVEL  # fp16 pictures, maps and products
        assert error.mean() < LEVEL


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda *_: [][0], "IndexError: list index out of range"),
        (
            lambda *_: torch.zeros(2, 3, 14, 14, device=DEVICE),
            r"Triton's differ by \d+\.\d\d levels",
        ),
    ],
)
def test_kernels_that_fail_or_differ_are_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: Any, reason: str
) -> None:
    augment = Augment(InputSpec.of_pictures(), AugmentConfig(crop_size=14)).to(DEVICE)
    patches = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8, device=DEVICE)
    draws = augment.draw(torch.arange(2), 0, True, (20, 20)).to(torch.device(DEVICE))
    assert augment._checked_kernels(patches, draws) is fused_views
    monkeypatch.setattr(augment, "_fused", broken)
    assert augment._checked_kernels(patches, draws) is False
    assert re.search(reason, capsys.readouterr().err)
