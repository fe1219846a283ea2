"""One view after the other on a CPU, against the batched path of a GPU."""

from dataclasses import replace

import pytest
import torch

from datasets.bands import seco_input_spec
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.input_spec import InputSpec
from utils.transforms import Augment

BATCH = 24
PICTURES = InputSpec.of_pictures()
RGB = seco_input_spec(["B4", "B3", "B2"])
ONE = seco_input_spec(["B8"], {"B8": (5.0, 90.0)})
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
    draws = augment.draw(keys(), 3, synthetic, size)
    scale = augment.std
    return augment._one_by_one(stored, draws) * scale, augment._batched(stored, draws) * scale


@pytest.mark.parametrize("spec", [PICTURES, RGB, ONE, MANY], ids=["pictures", "rgb", "one", "many"])
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
    """Up to the rounding to 8 bits after each of at most seven operations."""
    config = AugmentConfig(crop_size=crop_size, crop_first=crop_first, rotate=rotate)
    one_by_one, batched = both(spec, config, size, synthetic)
    assert one_by_one.shape == batched.shape
    assert one_by_one.is_contiguous(memory_format=torch.channels_last)
    difference = (one_by_one - batched).abs()
    assert difference.mean() < (0.6 if synthetic else 0.35)
    assert difference.mean(dim=(1, 2, 3)).max() < 2
    levels = one_by_one + Augment(spec, config).mean
    assert (levels - levels.round()).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("changes", "mean", "most"),
    [
        ({"blur_prob": 1.0, "jitter_prob": 0.0, "grayscale_prob": 0.0}, 0.4, 1.6),
        ({"blur_prob": 0.0, "jitter_prob": 0.0, "grayscale_prob": 1.0}, 0.5, 1.6),
        ({"blur_prob": 1.0, "blur_sigma": (1.9, 2.0), "crop_scale": (0.9, 1.0)}, 0.5, 3),
        ({"color_jitter": (0.9, 0.0, 0.0, 0.0), "jitter_prob": 1.0}, 0.6, 2.5),
        ({"color_jitter": (0.0, 0.9, 0.0, 0.0), "jitter_prob": 1.0}, 0.6, 2.5),
        ({"color_jitter": (0.0, 0.0, 0.9, 0.0), "jitter_prob": 1.0}, 0.6, 2.5),
        ({"color_jitter": (0.0, 0.0, 0.0, 0.5), "jitter_prob": 1.0}, 1.2, 8),
        ({"crop_scale": (1.0, 1.0)}, 0.6, 8),
        ({"crop_scale": (0.01, 0.02)}, 0.6, 8),
    ],
    ids=str,
)
def test_each_operation_alone_is_the_same(
    changes: dict[str, object], mean: float, most: float
) -> None:
    config = replace(AugmentConfig(crop_size=32), **changes)  # type: ignore[arg-type]
    one_by_one, batched = both(RGB, config, (48, 48), synthetic=True)
    difference = (one_by_one - batched).abs()
    assert difference.mean() < mean
    assert difference.max() < most


@pytest.mark.parametrize("crop_first", [False, True])
@pytest.mark.parametrize("spec", [PICTURES, RGB, MANY], ids=["pictures", "rgb", "many"])
def test_both_paths_truncate_and_round_alike(spec: InputSpec, crop_first: bool) -> None:
    config = AugmentConfig(crop_size=32, crop_first=crop_first, round_to_uint8=True)
    one_by_one, batched = both(spec, config, (48, 48), synthetic=True)
    assert (one_by_one - batched).abs().mean() < 0.05


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
