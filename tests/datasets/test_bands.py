"""The contract between stored values and encoder inputs, with numbers worked out by hand."""

import pytest
import torch

from datasets.bands import (
    ALL_BANDS,
    RESOLUTION_M,
    RGB_BANDS,
    RGB_QUANTILES,
    band_of,
    check_bands,
    find_band_files,
    seco_input_spec,
    short_name,
    two_digit_name,
)
from utils.errors import UserError
from utils.input_spec import InputSpec

# The original's quantiles.npy, typed again from its seco_dataset.py.
PUBLISHED = {"B2": (3.0, 88.0), "B3": (2.0, 103.0), "B4": (0.0, 129.0)}


@pytest.mark.parametrize("band", PUBLISHED)
def test_stretch_is_the_originals_on_all_256_values(band: str) -> None:
    low, high = PUBLISHED[band]
    expected = []
    for x in range(256):
        scaled = (x - low) / (high - low) * 255.0  # Python's floats are numpy's float64
        expected.append(int(min(max(scaled, 0.0), 255.0)))
    assert seco_input_spec([band]).stretch_table().tolist() == [expected]


@pytest.mark.parametrize(
    ("band", "stored", "picture"), [("B2", 45, 126), ("B3", 50, 121), ("B4", 128, 253)]
)
def test_stretch_of_a_pixel_by_hand(band: str, stored: int, picture: int) -> None:
    assert seco_input_spec([band]).stretch_table()[0, stored] == picture


def test_there_are_the_twelve_bands_of_level_2a() -> None:
    assert len(ALL_BANDS) == 12
    for resolution, bands in {10: "B2 B3 B4 B8", 20: "B5 B6 B7 B8A B11 B12", 60: "B1 B9"}.items():
        assert [b for b in ALL_BANDS if RESOLUTION_M[b] == resolution] == bands.split()


@pytest.mark.parametrize(
    ("ours", "esas"), [("B1", "B01"), ("B8A", "B8A"), ("B10", "B10"), ("B12", "B12")]
)
def test_bands_are_spelled_as_in_seco_and_as_in_files_of_esa(ours: str, esas: str) -> None:
    assert (two_digit_name(ours), short_name(esas), short_name(ours)) == (esas, ours, ours)


@pytest.mark.parametrize("bands", [("B2", "B3", "B4"), ("B4", "B3", "B2"), ("B3",)])
def test_channels_follow_the_requested_order(bands: tuple[str, ...]) -> None:
    spec = seco_input_spec(bands)
    assert spec.bands == bands
    assert spec.low == tuple(PUBLISHED[band][0] for band in bands)
    assert spec.high == tuple(PUBLISHED[band][1] for band in bands)


def test_red_green_blue_are_normalised_by_imagenet() -> None:
    spec = seco_input_spec(RGB_BANDS)
    assert spec.bands == ("B4", "B3", "B2")
    assert spec.mean == (0.485, 0.456, 0.406)
    assert spec.std == (0.229, 0.224, 0.225)
    blue = torch.full((1, 1, 1, 1), 255.0)
    assert seco_input_spec(["B2"]).normalize(blue).item() == pytest.approx((1 - 0.406) / 0.225)


def test_other_bands_take_the_mean_of_the_three() -> None:
    spec = seco_input_spec(["B8"], RGB_QUANTILES | {"B8": (1.0, 99.0)})
    assert spec.mean[0] == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert spec.std[0] == pytest.approx((0.229 + 0.224 + 0.225) / 3)
    assert (spec.low[0], spec.high[0]) == (1.0, 99.0)


def test_band_without_quantiles_names_the_command() -> None:
    with pytest.raises(UserError, match=r"no quantiles for B8 B11: run .*seco_utils.py"):
        seco_input_spec(["B8", "B4", "B11"])


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (["B4", "B10"], "unknown band B10: .*B8A"),
        (["ndvi"], "unknown band ndvi: .*B12; trainings also take NDVI"),
        (["B04"], "unknown band B04"),
        (["B4", "B4"], "distinct names"),
        ([], "distinct names"),
    ],
)
def test_wrong_bands_are_refused(bands: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_bands(bands)


def test_contract_survives_a_checkpoint() -> None:
    spec = seco_input_spec(RGB_BANDS)
    assert InputSpec.from_dict(spec.to_dict()) == spec


def test_pictures_are_not_stretched() -> None:
    table = InputSpec.of_pictures().stretch_table()
    assert torch.equal(table, torch.arange(256, dtype=torch.uint8).expand(3, 256))


@pytest.mark.parametrize(
    ("file", "band"),
    [
        *(("B4.tif", "B4"), ("B4.TIF", "B4"), ("b4.tif", "B4"), ("B04.tiff", "B4")),
        *(("b04.Tif", "B4"), ("B8A.tif", "B8A"), ("b8a.tif", "B8A"), ("B12.TIFF", "B12")),
        ("B04_10m.tif", "B4"),
        ("T31UDQ_20200101T105321_B04_10m.tif", "B4"),  # Sen2Cor
        ("T31UDQ_20200101T105321_B8A_20m.tif", "B8A"),
        ("S2A_MSIL2A_20170613T101031_87_48_B11.tif", "B11"),  # BigEarthNet
        ("20200101T105321_20200101T105321_T31UDQ.B4.tif", "B4"),  # Earth Engine
        ("SENTINEL2A_20200101-105321-458_L2A_T31UDQ_C_V2-2_FRE_B4.tif", "B4"),  # MAJA
        ("HLS.S30.T31UDQ.2020001T105321.v2.0.B04.tif", "B4"),
        *((name, None) for name in ("._B04.tif", ".B04.tif", ".x_B04.tif", "B04.tif.aux.xml")),
        *((name, None) for name in ("B13.tif", "B10.tif", "B0.tif", "B4", "B4.jp2", "AB4.tif")),
        *((name, None) for name in ("20200101T105321_T31UDQ.tif", "SCL.tif", "B4.png")),
    ],
)
def test_band_is_found_in_the_names_that_tools_give_to_files(file: str, band: str | None) -> None:
    assert band_of(file) == band


def test_two_files_of_one_band_are_refused() -> None:
    assert find_band_files(["B4.tif", "._B4.tif", "x_B3.tif"], "a") == {
        "B4": "B4.tif",
        "B3": "x_B3.tif",
    }
    with pytest.raises(UserError, match=r"a/b has B04\.TIF and B4\.tif for band B4: keep one"):
        find_band_files(["B4.tif", "B04.TIF"], "a/b")
