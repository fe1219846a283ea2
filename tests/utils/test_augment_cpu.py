"""One view after the other on a CPU, against the batched path of a GPU."""

from dataclasses import replace

import pytest
import torch

from datasets.bands import seco_input_spec
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.input_spec import InputSpec
from utils.transforms import Augment
from utils.view_draws import draw_views

BATCH = 24
PICTURES = InputSpec.of_pictures()
RGB = seco_input_spec(["B4", "B3", "B2"])
MANY = seco_input_spec(
    ["B8", "B4", "B3", "B2", "B11"], dict.fromkeys(("B8", "B4", "B3", "B2", "B11"), (5.0, 90.0))
)


def keys() -> torch.Tensor:
    return sample_keys(1, torch.zeros(BATCH, dtype=torch.long), torch.arange(BATCH))


def patches(bands: int, height: int, width: int) -> torch.Tensor:
    """Smooth and noisy at once: noise alone would hide what blur does."""
    noise = torch.rand(BATCH, bands, height, width)
    slope = torch.linspace(0, 1, width) * torch.linspace(0.2, 1, height)[:, None]
    return ((noise + 2 * slope) / 3 * 140).byte()


def both(
    spec: InputSpec, config: AugmentConfig, size: tuple[int, int], synthetic: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the views of both paths in grey levels."""
    augment = Augment(spec, config)
    stored = patches(len(spec.bands), *size)
    draws = draw_views(keys(), 3, synthetic, size, config)
    scale = augment.std
    return augment._one_by_one(stored, draws) * scale, augment._batched(stored, draws) * scale


@pytest.mark.parametrize("spec", [PICTURES, RGB, MANY], ids=["pictures", "rgb", "many"])
@pytest.mark.parametrize("crop_first", [False, True])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize(("size", "crop_size"), [((48, 48), 32), ((37, 50), 64), ((40, 40), 40)])
def test_both_paths_make_the_same_views(
    spec: InputSpec,
    crop_first: bool,
    rotate: bool,
    synthetic: bool,
    size: tuple[int, int],
    crop_size: int,
) -> None:
    config = AugmentConfig(crop_size=crop_size, crop_first=crop_first, rotate=rotate)
    one_by_one, batched = both(spec, config, size, synthetic)
    assert one_by_one.shape == batched.shape
    assert one_by_one.is_contiguous(memory_format=torch.channels_last)
    assert (one_by_one - batched).abs().max() < 0.02


@pytest.mark.parametrize("crop_first", [False, True])
def test_both_paths_round_alike(crop_first: bool) -> None:
    """A value on the edge of rounding may fall to either side, and then differ by operations."""
    config = AugmentConfig(crop_size=32, crop_first=crop_first, round_to_uint8=True)
    one_by_one, batched = both(RGB, config, (48, 48), synthetic=True)
    difference = (one_by_one - batched).abs()
    assert (difference > 0.5).float().mean() < 0.01
    assert difference.max() < 8
    levels = one_by_one + Augment(RGB, config).mean
    assert (levels - levels.round()).abs().max() < 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"blur_prob": 1.0, "jitter_prob": 0.0, "grayscale_prob": 0.0},
        {"blur_prob": 0.0, "jitter_prob": 1.0, "grayscale_prob": 0.0},
        {"blur_prob": 0.0, "jitter_prob": 0.0, "grayscale_prob": 1.0},
        {"blur_prob": 1.0, "blur_sigma": (1.9, 2.0), "crop_scale": (0.9, 1.0)},
        {"color_jitter": (0.0, 0.0, 0.0, 0.5), "jitter_prob": 1.0},
        {"color_jitter": (0.9, 0.9, 0.9, 0.0), "jitter_prob": 1.0},
        {"crop_scale": (1.0, 1.0)},
        {"crop_scale": (0.01, 0.02)},
    ],
    ids=str,
)
def test_each_operation_alone_is_the_same(changes: dict[str, object]) -> None:
    config = replace(AugmentConfig(crop_size=32), **changes)  # type: ignore[arg-type]
    one_by_one, batched = both(RGB, config, (48, 48), synthetic=True)
    assert (one_by_one - batched).abs().max() < 0.02


def test_path_is_chosen_by_the_size_of_a_patch() -> None:
    augment = Augment(RGB, AugmentConfig(crop_size=32))
    for size, path in ((64, augment._batched), (65, augment._one_by_one)):
        stored = patches(3, size, size)
        draws = draw_views(keys(), 1, True, (size, size), augment.config)
        assert torch.equal(augment(stored, keys(), 1, True), path(stored, draws))


def test_number_of_threads_changes_no_bit() -> None:
    augment = Augment(RGB, AugmentConfig(crop_size=32))
    stored = patches(3, 80, 80)
    alone = augment(stored, keys(), 1, True)
    torch.set_num_threads(3)
    try:
        together = augment(stored, keys(), 1, True)
        assert torch.get_num_threads() == 3  # of this thread; the others take one each
    finally:
        torch.set_num_threads(1)
    assert torch.equal(alone, together)
