"""Views against the original transforms with the same parameters, and the draw of these.

That the parameters are drawn as torchvision draws them is in ``test_augment_draws.py``.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
import torchvision.transforms.functional as TF
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from datasets.bands import RGB_BANDS, seco_input_spec
from tests.references.pil_reference import (
    HUE,
    PICTURES,
    View,
    from_pil,
    moco_view,
    noise,
    seco_view,
    to_pil,
)
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.input_spec import InputSpec
from utils.transforms import Augment
from utils.view_draws import Draws, blur_sigma, color_params, crop_boxes

SECO = AugmentConfig(crop_size=56)
ALWAYS = replace(SECO, jitter_prob=1.0, blur_prob=1.0)  # only grey and flip are left to chance
NEVER = replace(SECO, jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, flip_prob=0.0)
PICTURE = InputSpec.of_pictures()
RAW = InputSpec(("R", "G", "B"), (0.0,) * 3, (255.0,) * 3, (0.0,) * 3, (1 / 255,) * 3)  # 0..255


def keys_of(batch: int, seed: int = 0) -> Tensor:
    return sample_keys(seed, torch.zeros(batch, dtype=torch.long), torch.arange(batch))


def patches_of(kind: str, batch: int, height: int, width: int) -> Tensor:
    return torch.stack([PICTURES[kind](height, width, seed=seed) for seed in range(batch)])


def drawn_views(
    keys: Tensor, stream: int, height: int, width: int, config: AugmentConfig
) -> list[View]:
    """Read the parameters in the order in which ``Augment`` draws them."""
    draws = Draws(keys, stream)
    boxes = crop_boxes(draws, height, width, config.crop_scale)
    color = color_params(draws, config)
    sigma = blur_sigma(draws, config)
    flip = draws.below(config.flip_prob)
    assert color.hue is not None
    views = []
    for i in range(len(keys)):
        red, green, blue = color.factors[i].tolist()
        order = color.blend_order[i].tolist()
        order.insert(int(color.hue_slot[i]), HUE)
        top, left, box_height, box_width = (int(value) for value in boxes[i])
        views.append(
            View(
                box=(top, left, box_height, box_width),
                amounts=(red, green, blue, float(color.hue[i])),
                order=order,
                grey=bool(color.to_grey[i]),
                sigma=float(sigma[i]),
                flip=bool(flip[i]),
            )
        )
    return views


def mirrored(view: View, width: int) -> View:
    """Move the box of a flipped view to where it lies in the flipped picture."""
    top, left, box_height, box_width = view.box
    return replace(view, box=(top, width - left - box_width, box_height, box_width))


def original_views(patches: Tensor, views: list[View], config: AugmentConfig) -> Tensor:
    """Apply the original, on 8-bit pictures: shape (B, 3, crop_size, crop_size), 0..255."""
    width, results = patches.shape[3], []
    for patch, view in zip(patches, views, strict=True):
        picture = to_pil(patch)
        if config.crop_first:
            result = moco_view(picture, view, config.crop_size)
        else:
            where = mirrored(view, width) if view.flip else view
            result = seco_view(picture, where, config.crop_size)
        results.append(from_pil(result))
    return torch.stack(results)


def gradient(views: Tensor) -> float:
    """Return the mean difference of neighbours in a row."""
    return float(views.diff(dim=3).abs().mean())


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("shape", [(66, 66), (131, 97)])
@pytest.mark.parametrize("crop_first", [False, True], ids=["SeCo", "MoCo"])
@pytest.mark.parametrize("path", ["_one_by_one", "_batched"], ids=["CPU", "GPU"])
@pytest.mark.difference("rounding", "flip")
def test_chain_is_the_originals(
    path: str, crop_first: bool, shape: tuple[int, int], kind: str
) -> None:
    config = replace(ALWAYS, crop_first=crop_first)
    patches, keys = patches_of(kind, 24, *shape), keys_of(24)
    views = drawn_views(keys, 3, *shape, config)
    theirs = original_views(patches, views, config)
    exact, rounded = (
        getattr(augment, path)(patches, augment.draw(keys, 3, True, shape))
        for rounds in (False, True)
        for augment in (Augment(RAW, replace(config, round_to_uint8=rounds)),)
    )
    error, error_rounded = ((ours - theirs).abs().mean() for ours in (exact, rounded))
    assert error < 2
    assert error_rounded < 0.05
    assert ((rounded - theirs).abs() < 0.5).float().mean() > 0.95  # the same level
    # Pillow rounds in each pass of its blur, without which views are up to 7 % smoother.
    assert gradient(rounded) == pytest.approx(gradient(theirs), rel=1e-3)


def test_chain_of_the_default_draw_is_the_originals() -> None:
    """Also samples without colour, without blur or without both."""
    patches, keys = patches_of("landscape", 24, 66, 66), keys_of(24, seed=1)
    views = drawn_views(keys, 0, 66, 66, SECO)
    assert {bool(view.sigma) for view in views} == {False, True}
    theirs = original_views(patches, views, SECO)
    error = (Augment(RAW, SECO)(patches, keys, 0, True) - theirs).abs().mean(dim=(1, 2, 3))
    assert error.mean() < 1.5
    assert error.max() < 2.5


def test_plain_view_is_only_the_originals_crop_and_normalisation() -> None:
    patches, keys = patches_of("landscape", 8, 66, 66), keys_of(8)
    ours = Augment(PICTURE, SECO)(patches, keys, 1, synthetic=False)
    for view, patch, drawn in zip(ours, patches, drawn_views(keys, 1, 66, 66, SECO), strict=True):
        cut = TF.resized_crop(to_pil(patch), *drawn.box, [56, 56])
        theirs = TF.normalize(TF.to_tensor(cut), list(PICTURE.mean), list(PICTURE.std))
        assert (view - theirs).abs().mean() < 1 / 255 / min(PICTURE.std)


@pytest.mark.parametrize("synthetic", [False, True])
def test_stored_values_are_stretched_before_all_else(synthetic: bool) -> None:
    spec = seco_input_spec(RGB_BANDS)
    patches, keys = patches_of("noise", 4, 40, 40) // 2, keys_of(4)
    table = spec.stretch_table()
    stretched = torch.stack([table[band][patches[:, band].long()] for band in range(3)], dim=1)
    ours = Augment(spec, SECO)(patches, keys, 0, synthetic)
    expected = Augment(PICTURE, SECO)(stretched, keys, 0, synthetic)
    assert torch.equal(ours, expected)


def test_rounded_views_hold_whole_grey_levels() -> None:
    config = replace(SECO, round_to_uint8=True)
    views = Augment(RAW, config)(patches_of("landscape", 6, 66, 66), keys_of(6), 0, True)
    torch.testing.assert_close(views, views.round(), atol=1e-3, rtol=0)
    assert views.min() >= 0
    assert views.max() <= 255.001


def test_a_cropped_picture_is_rounded_before_blends_cut_decimals_off() -> None:
    patches, keys = patches_of("noise", 4, 66, 66), keys_of(4)
    first, last = (
        Augment(RAW, replace(NEVER, round_to_uint8=True, crop_first=crop_first))(
            patches, keys, 0, True
        )
        for crop_first in (True, False)
    )
    assert (first - last).abs().mean() < 0.01


@pytest.mark.parametrize("config", [SECO, replace(SECO, crop_first=True, rotate=True)])
def test_views_of_a_sample_do_not_depend_on_its_batch(config: AugmentConfig) -> None:
    patches, keys = patches_of("landscape", 6, 66, 50), keys_of(6)
    augment, order = Augment(PICTURE, config), torch.tensor([4, 0, 5, 2, 1, 3])
    together = augment(patches, keys, 2, True)
    shuffled = augment(patches[order], keys[order], 2, True)
    alone = torch.cat([augment(patches[i : i + 1], keys[i : i + 1], 2, True) for i in range(6)])
    torch.testing.assert_close(shuffled, together[order], atol=1e-4, rtol=0)
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)


def test_same_keys_give_the_same_bits_and_other_streams_other_views() -> None:
    patches, keys = patches_of("landscape", 4, 66, 66), keys_of(4)
    augment = Augment(PICTURE, SECO)
    views = [augment(patches, keys, stream, True) for stream in (0, 0, 1, 2)]
    assert torch.equal(views[0], views[1])
    for other in views[2:]:
        assert ((other - views[0]).abs().mean(dim=(1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("synthetic", [False, True])
def test_views_are_float32_in_channels_last_order(synthetic: bool) -> None:
    views = Augment(PICTURE, SECO)(patches_of("noise", 2, 30, 40), keys_of(2), 0, synthetic)
    assert views.shape == (2, 3, 56, 56)
    assert views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("crop_first", [False, True])
def test_geometry_and_blur_treat_every_band_alike(crop_first: bool) -> None:
    """12 bands without colour are four RGB pictures without colour."""
    config = replace(ALWAYS, jitter_prob=0.0, grayscale_prob=0.0, crop_first=crop_first)
    patches, keys = noise(66, 50, bands=36).view(3, 12, 66, 50), keys_of(3)
    columns = ((0.0,) * 12, (255.0,) * 12, (0.0,) * 12, (1 / 255,) * 12)
    spec = InputSpec(tuple(f"B{band}" for band in range(12)), *columns)
    ours = Augment(spec, config)(patches, keys, 0, True)
    triples = [Augment(RAW, config)(three, keys, 0, True) for three in patches.split(3, dim=1)]
    torch.testing.assert_close(ours, torch.cat(triples, dim=1), atol=2e-2, rtol=0)


def test_rotation_gives_all_eight_positions_equally_often() -> None:
    patches, keys = noise(16, 16).expand(800, -1, -1, -1), keys_of(800)
    # Only a square crop has the whole area and fits.
    config = replace(NEVER, crop_size=16, crop_scale=(1.0, 1.0), flip_prob=0.5, rotate=True)
    views = Augment(RAW, config)(patches, keys, 0, True)
    upright = patches[:1].float()
    positions = [
        turned.rot90(turns, (2, 3)) for turned in (upright, upright.mT) for turns in range(4)
    ]
    distance = torch.stack([(views - position).abs().amax(dim=(1, 2, 3)) for position in positions])
    assert distance.amin(dim=0).max() < 1e-2  # (8, B)
    counts = Counter(distance.argmin(dim=0).tolist())
    assert len(counts) == 8
    assert all(60 < count < 140 for count in counts.values())  # 100 +- 4 deviations


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("path", ["kernels", "plain torch", "8 bits"])
def test_nothing_waits_for_the_gpu(synthetic: bool, path: str) -> None:
    """Fake tensors have no values: who asks for one is refused. They need no GPU either."""
    config = replace(SECO, rotate=True, round_to_uint8=path == "8 bits")
    augment = Augment(seco_input_spec(RGB_BANDS), config)
    augment.fused = path == "kernels" and pytest.importorskip("utils.fused_views")
    with FakeTensorMode(allow_non_fake_inputs=True):
        augment.to("cuda")
        patches = torch.zeros(4, 3, 66, 66, dtype=torch.uint8, device="cuda")
        keys = sample_keys(0, *torch.zeros(2, 4, dtype=torch.long, device="cuda"))
        views = augment(patches, keys, 0, synthetic)
        assert views.shape == (4, 3, 56, 56)
        assert views.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):  # the net has no hole
            views.sum().item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_views() -> None:
    patches, keys = patches_of("landscape", 8, 264, 264), keys_of(8)
    augment = Augment(RAW, AugmentConfig())
    views = augment(patches, keys, 0, True)
    on_gpu = augment.cuda()(patches.cuda(), keys.cuda(), 0, True)
    assert (on_gpu.cpu() - views).abs().max() < 0.3
