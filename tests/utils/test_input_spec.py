"""The input contract of an encoder, and its inputs from each data set, in plain Python."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given
from hypothesis import strategies as st

from datasets.bands import RGB_BANDS, RGB_QUANTILES, seco_input_spec
from tests.references.pil_reference import noise, to_pil
from utils.errors import UserError
from utils.input_spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INPUT_NORMS,
    SECO_SPEC,
    DataSpec,
    InputSpec,
    input_transform,
)

REFLECTANCE = DataSpec(
    "Landscapes",
    ("B2", "B3", "B4", "B8"),
    (100.0, 200.0, -50.0, 400.0),
    (2100.0, 1200.0, 950.0, 4400.0),
)
PICTURES = DataSpec.of_pictures("Photographs")
DN = st.integers(0, 65_535)


def input_of(dn: int, band: str, spec: InputSpec, norm: str) -> float:
    """Transform one pixel of one band; the other bands are zero."""
    transform = input_transform(spec, REFLECTANCE, norm)
    stored = np.zeros((len(transform.bands), 1, 1), np.uint16)
    channel = transform.bands.index(band)
    stored[channel] = dn
    picture = torch.from_numpy(transform.to_picture(stored))
    assert picture.dtype == torch.uint8
    return transform.normalize(picture[None])[0, channel].item()


@given(DN, st.sampled_from(RGB_BANDS))
def test_a_seco_encoder_sees_reflectance_as_its_patches_store_it(dn: int, band: str) -> None:
    stored = int(min(dn / 10_000, 1) * 255 + 1e-9)  # uint8, cut off
    low, high = RGB_QUANTILES[band]
    picture = int(min(max((stored - low) / (high - low) * 255, 0), 255))
    channel = RGB_BANDS.index(band)
    expected = (picture / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
    spec = seco_input_spec(RGB_BANDS)
    assert input_of(dn, band, spec, "auto") == pytest.approx(expected, abs=1e-5)


@given(
    DN, st.sampled_from(REFLECTANCE.bands), st.sampled_from(["auto", "imagenet", "paper", "none"])
)
def test_an_encoder_of_pictures_sees_the_picture_of_the_data_set(
    dn: int, band: str, norm: str
) -> None:
    index = REFLECTANCE.bands.index(band)
    low, high = REFLECTANCE.low[index], REFLECTANCE.high[index]
    picture = int(min(max((dn - low) / (high - low) * 255, 0), 255))
    expected = picture / 255
    if norm == "none":
        expected = int(min(dn / 10_000, 1) * 255 + 1e-9) / 255
    elif norm != "paper":
        order = {"B4": 0, "B3": 1, "B2": 2}
        mean = IMAGENET_MEAN[order[band]] if band in order else sum(IMAGENET_MEAN) / 3
        std = IMAGENET_STD[order[band]] if band in order else sum(IMAGENET_STD) / 3
        expected = (expected - mean) / std
    spec = InputSpec.of_pictures(("B8", "B4", "B3", "B2"))
    assert input_of(dn, band, spec, norm) == pytest.approx(expected, abs=1e-5)


def test_channels_come_in_the_order_of_the_encoder() -> None:
    assert input_transform(InputSpec.of_pictures(), REFLECTANCE, "auto").bands == RGB_BANDS
    assert input_transform(seco_input_spec(RGB_BANDS), PICTURES, "auto").bands == ("R", "G", "B")
    turned = input_transform(seco_input_spec(("B2", "B4")), PICTURES, "auto")
    assert turned.bands == ("B", "R")
    assert turned.spec.mean == (IMAGENET_MEAN[2], IMAGENET_MEAN[0])


@pytest.mark.parametrize("norm", ["auto", "imagenet", "paper", "none"])
def test_pictures_are_never_stretched(norm: str) -> None:
    transform = input_transform(seco_input_spec(RGB_BANDS), PICTURES, norm)
    stored = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)
    assert np.array_equal(transform.to_picture(stored), stored)


def test_an_encoder_of_other_bands_is_refused() -> None:
    spec = InputSpec(("B4", "B12"), (0.0,) * 2, (255.0,) * 2, (0.0,) * 2, (1.0,) * 2)
    with pytest.raises(UserError, match="trained on B4 B12, but Photographs has no B12"):
        input_transform(spec, PICTURES, "auto")
    with pytest.raises(UserError, match="Landscapes has no B12"):
        input_transform(spec, REFLECTANCE, "paper")


def test_transforms_that_differ_have_different_fingerprints() -> None:
    specs = (InputSpec.of_pictures(), seco_input_spec(RGB_BANDS), seco_input_spec(RGB_BANDS[::-1]))
    norms = ("auto", "imagenet", "paper", "none")
    transforms = [input_transform(spec, REFLECTANCE, norm) for spec in specs for norm in norms]
    distinct = {(t.bands, t.table.tobytes(), t.spec.mean, t.spec.std) for t in transforms}
    assert len({t.fingerprint() for t in transforms}) == len(distinct)


def test_contracts_without_a_unit_are_those_of_before() -> None:
    for spec in (InputSpec.of_pictures(), seco_input_spec(RGB_BANDS)):
        values = spec.to_dict()
        assert values.pop("unit") == spec.unit
        assert InputSpec.from_dict(values) == spec


@pytest.mark.parametrize("input_norm", INPUT_NORMS)
@pytest.mark.parametrize("data", [PICTURES, REFLECTANCE])
@pytest.mark.parametrize("spec", [SECO_SPEC, InputSpec.of_pictures()])
def test_what_is_trained_on_inputs_gets_them_again_by_its_own_contract(
    spec: InputSpec, data: DataSpec, input_norm: str
) -> None:
    first = input_transform(spec, data, input_norm)
    again = input_transform(first.spec, data, "auto")
    assert again.bands == first.bands
    assert np.array_equal(again.table, first.table)
    assert (again.spec.mean, again.spec.std) == (first.spec.mean, first.spec.std)
    assert InputSpec.from_dict(first.spec.to_dict()) == first.spec


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        *((PICTURES, dtype) for dtype in ("uint16", "float32", "float64", "int64")),
        *((REFLECTANCE, dtype) for dtype in ("uint8", "float32", "int16", "int64")),
    ],
)
def test_stored_values_of_another_type_are_refused(data: DataSpec, dtype: str) -> None:
    transform = input_transform(InputSpec.of_pictures(), data, "paper")
    expected = "uint8 .8-bit" if data is PICTURES else "uint16 .10,000 times reflectance"
    with pytest.raises(UserError, match=f"stored values are {dtype}, but {expected}"):
        transform.to_picture(np.ones((3, 2, 2), dtype))


def test_pictures_in_0_to_1_are_refused() -> None:
    transform = input_transform(InputSpec.of_pictures(), PICTURES, "auto")
    with pytest.raises(UserError, match=r"pictures are torch\.float32, but torch\.uint8 from 0 to"):
        transform.normalize(torch.rand(1, 3, 2, 2))


# Of the original, datasets/seco_dataset.py; restated, so that a change of ours is noticed.
PUBLISHED = {"B2": (3.0, 88.0), "B3": (2.0, 103.0), "B4": (0.0, 129.0)}


def slow_stretch(stored: int, low: float, high: float) -> int:
    return int(min(max((stored - low) / (high - low) * 255, 0), 255))


@pytest.mark.parametrize("bands", [RGB_BANDS, ("B2",), ("B3", "B4")])
def test_stretch_is_the_originals_on_all_values_of_each_band(bands: tuple[str, ...]) -> None:
    expected = [[slow_stretch(x, *PUBLISHED[band]) for x in range(256)] for band in bands]
    table = seco_input_spec(bands).stretch_table()
    assert table.dtype == torch.uint8
    assert table.tolist() == expected


@given(st.floats(0, 200), st.floats(0.01, 255))
def test_stretch_of_any_band_rises_from_0_to_255(low: float, width: float) -> None:
    spec = InputSpec(("B8",), (low,), (low + width,), (0.5,), (0.25,))
    table = spec.stretch_table()[0].int()
    assert (table.diff() >= 0).all()
    assert not table[: int(low) + 1].any()
    assert (table[int(low + width) + 1 :] == 255).all()


def test_normalisation_is_torchvisions() -> None:
    picture = noise(5, 7)
    expected = TF.normalize(TF.to_tensor(to_pil(picture)), list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(InputSpec.of_pictures().normalize(picture[None])[0], expected)


@pytest.mark.parametrize("name", ["low", "high", "mean", "std"])
@pytest.mark.parametrize(
    "value",
    [10**400, math.inf, math.nan, torch.zeros(2)],
    ids=["huge", "inf", "nan", "tensor"],
)
def test_numbers_of_a_contract_are_finite(name: str, value: float) -> None:
    content = InputSpec.of_pictures().to_dict()
    content[name] = [value, *content[name][1:]]
    with pytest.raises(ValueError, match="finite"):
        InputSpec.from_dict(content)
