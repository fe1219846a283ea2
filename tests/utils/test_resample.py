"""The maps against Pillow, and against box filters and triangles written as loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torch import Tensor

from tests.references.pil_reference import PICTURES, from_pil, landscape, noise, to_pil
from utils.resample import blur_uint8, gaussian_taps, resample, resize_map, taps_map

# Height and width of the patch; top, left, height and width of the crop; size of the view.
CROPS = [
    pytest.param((264, 264), (20, 33, 180, 200), 224, id="up"),
    pytest.param((264, 264), (0, 0, 264, 264), 224, id="whole patch down"),
    pytest.param((264, 264), (1, 2, 251, 197), 96, id="down by more than 2"),
    pytest.param((61, 97), (61 - 40, 97 - 53, 40, 53), 33, id="odd, at the far corner"),
    pytest.param((96, 150), (5, 0, 37, 150), 64, id="not square, up and down"),
    pytest.param((50, 50), (49, 0, 1, 50), 7, id="one row"),
    pytest.param((224, 224), (0, 0, 224, 224), 224, id="nothing"),
]
SIGMAS = [0.1, 0.3, 0.5, 0.9, 1.0, 1.4143, 1.7, 2.0]


def crop_and_resize(
    pictures: Tensor, box: tuple[int, int, int, int], size: int, rounds: bool = False
) -> Tensor:
    top, left, height, width = (torch.tensor([float(value)]) for value in box)
    rows = resize_map(top, height, pictures.shape[1], size)
    columns = resize_map(left, width, pictures.shape[2], size)
    return resample(pictures[None], rows, columns, rounds)[0]


def blur_map(sigma: Tensor, size: int, max_sigma: float) -> Tensor:
    return taps_map(gaussian_taps(sigma, max_sigma), size)


def blur(picture: Tensor, sigma: float) -> Tensor:
    rows, columns = (blur_map(torch.tensor([sigma]), size, 2.0) for size in picture.shape[1:])
    return resample(picture[None], rows, columns)[0]


def pil_crop(band: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    top, left, height, width = box
    cut = band.crop((left, top, left + width, top + height))
    return cut.resize((size, size), Image.Resampling.BILINEAR)


def slow_box_blur(line: np.ndarray, sigma: float) -> np.ndarray:
    """Three passes of Pillow's extended box along a line whose ends are repeated far enough."""
    whole = math.floor((math.sqrt(4 * sigma**2 + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - sigma**2)
    part /= 6 * (sigma**2 / 3 - (whole + 1) ** 2)
    for _ in range(3):
        far = np.pad(line, whole + 1)
        line = np.array(
            [
                far[i : i + 2 * whole + 1].sum() + part * (far[i - 1] + far[i + 2 * whole + 1])
                for i in range(1, len(line) + 1)
            ]
        ) / (2 * (whole + part) + 1)
    return line


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize(("shape", "box", "size"), CROPS)
def test_crop_and_resize_is_pillows(
    kind: str, shape: tuple[int, int], box: tuple[int, int, int, int], size: int
) -> None:
    picture = PICTURES[kind](*shape)
    ours, rounded = (crop_and_resize(picture, box, size, rounds) for rounds in (False, True))
    theirs = from_pil(pil_crop(to_pil(picture), box, size))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.5
    assert (ours - theirs).abs().max() <= 1.5
    assert (rounded != theirs).float().mean() < 0.015  # halves: weights are simple fractions


@pytest.mark.parametrize(("shape", "box", "size"), CROPS)
def test_crop_and_resize_is_pillows_of_floats_to_the_last_digits(
    shape: tuple[int, int], box: tuple[int, int, int, int], size: int
) -> None:
    """Without the rounding of 8-bit pictures nothing is left; 12 bands, each like a picture."""
    patch = noise(*shape, bands=12)
    ours = crop_and_resize(patch, box, size)
    for band, stored in zip(ours, patch, strict=True):
        theirs = np.asarray(pil_crop(Image.fromarray(stored.float().numpy()), box, size))
        np.testing.assert_allclose(band.numpy(), theirs, atol=1e-2)


@pytest.mark.parametrize(("kind", "tolerance"), [("landscape", 0.9), ("noise", 1.1)])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_blur_is_pillows(kind: str, tolerance: float, sigma: float) -> None:
    """Noise with sigma 0.1 is the worst case: Pillow rounds all of the blur away, six times."""
    picture = PICTURES[kind](121, 160)
    difference = blur(picture, sigma) - from_pil(
        to_pil(picture).filter(ImageFilter.GaussianBlur(sigma))
    )
    assert difference.abs().mean() < tolerance


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("sigma", [0.0, *SIGMAS])
def test_blur_of_8_bits_is_pillows_to_the_bit(sigma: float, kind: str) -> None:
    picture = PICTURES[kind](31, 40)
    sigma *= 1.00037  # which makes no simple fractions of the weights, and thus no halves
    theirs = from_pil(to_pil(picture).filter(ImageFilter.GaussianBlur(sigma)))
    ours = blur_uint8(picture[None].float(), gaussian_taps(torch.tensor([sigma]), 2.0))[0]
    assert (ours != theirs).float().mean() < 1e-3  # a last digit of float32 next to a half
    assert (ours - theirs).abs().max() <= 1


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.difference("blur")
def test_blur_is_pillows_along_the_border(sigma: float) -> None:
    """Pillow repeats the last pixel of each pass, we that of the picture."""
    picture = landscape(121, 160)
    theirs = from_pil(to_pil(picture).filter(ImageFilter.GaussianBlur(sigma)))
    difference = (blur(picture, sigma) - theirs).abs()
    difference[:, 4:-4, 4:-4] = 0
    border = 1 - 113 * 152 / (121 * 160)  # share of the border
    assert difference.mean() / border < 1


@pytest.mark.parametrize("sigma", SIGMAS)
def test_blur_is_three_boxes_over_a_picture_with_repeated_ends(sigma: float) -> None:
    line = np.random.default_rng(0).uniform(0, 255, 40)
    blurred = slow_box_blur(np.pad(line, 20, mode="edge"), sigma)[20:-20]
    ours = blur_map(torch.tensor([sigma]), 40, 2.0)[0] @ torch.from_numpy(line).float()
    np.testing.assert_allclose(ours.numpy(), blurred, atol=2e-3)


@given(st.floats(0, 5))
def test_blur_has_exactly_the_variance_of_its_gaussian(sigma: float) -> None:
    impulse = blur_map(torch.tensor([sigma], dtype=torch.float64), 61, 5.0)[0, 30]
    distance = torch.arange(61) - 30
    assert (impulse * distance**2).sum().item() == pytest.approx(sigma**2, abs=1e-9)
    assert torch.allclose(impulse, impulse.flip(0))


def test_no_blur_changes_nothing() -> None:
    assert torch.equal(blur_map(torch.zeros(2), 9, 2.0), torch.eye(9).expand(2, 9, 9))


@given(st.integers(1, 40), st.lists(st.floats(0, 3), min_size=1, max_size=4))
def test_blur_keeps_a_constant_picture_of_any_size(size: int, sigmas: list[float]) -> None:
    sums = blur_map(torch.tensor(sigmas), size, 3.0).sum(dim=2)
    torch.testing.assert_close(sums, torch.ones(len(sigmas), size))


@st.composite
def crops_of_a_line(draw: st.DrawFn) -> tuple[int, int, int, int]:
    in_size = draw(st.integers(1, 60))
    length = draw(st.integers(1, in_size))
    return draw(st.integers(0, in_size - length)), length, in_size, draw(st.integers(1, 60))


@given(crops_of_a_line())
@settings(max_examples=300)
def test_resize_averages_pixels_of_the_crop_only(crop: tuple[int, int, int, int]) -> None:
    start, length, in_size, out_size = crop
    (weights,) = resize_map(
        torch.tensor([float(start)]), torch.tensor([float(length)]), in_size, out_size
    )
    assert weights.shape == (out_size, in_size)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(out_size))
    assert not weights[:, :start].any()
    assert not weights[:, start + length :].any()
    # A crop has no preferred end.
    inner = weights[:, start : start + length]
    torch.testing.assert_close(inner, inner.flip(0, 1), atol=1e-4, rtol=0)


def test_every_sample_of_a_batch_gets_its_own_map() -> None:
    start, length = torch.tensor([0.0, 5.0, 12.0]), torch.tensor([30.0, 9.0, 18.0])
    pictures = noise(30, 30, bands=9).view(3, 3, 30, 30)
    rows = resize_map(start, length, 30, 16)
    columns = rows.flip(0)
    together = resample(pictures, rows, columns)
    for i in range(3):
        torch.testing.assert_close(together[i], rows[i] @ pictures[i].float() @ columns[i].T)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_pictures() -> None:
    pictures = noise(264, 264, bands=12).view(4, 3, 264, 264)
    rows = resize_map(torch.arange(4.0), torch.full((4,), 200.0), 264, 224)
    gpu = resample(pictures.cuda(), rows.cuda(), rows.cuda())
    assert (gpu.cpu() - resample(pictures, rows, rows)).abs().max() < 0.25
