"""The stretch in pure Python, the normalisation as torchvision's, the contract as JSON."""

import json

import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given
from hypothesis import strategies as st

from datasets.bands import RGB_BANDS, seco_input_spec
from tests.references.pil_reference import noise, to_pil
from utils.normalization import IMAGENET_MEAN, IMAGENET_STD, InputSpec

# Of the original, datasets/seco_dataset.py; restated, so that a change of ours is noticed.
QUANTILES = {"B2": (3.0, 88.0), "B3": (2.0, 103.0), "B4": (0.0, 129.0)}


def slow_stretch(stored: int, low: float, high: float) -> int:
    return int(min(max((stored - low) / (high - low) * 255, 0), 255))


@pytest.mark.parametrize("bands", [RGB_BANDS, ("B2",), ("B3", "B4")])
def test_stretch_is_the_originals_on_all_values_of_each_band(bands: tuple[str, ...]) -> None:
    expected = [[slow_stretch(x, *QUANTILES[band]) for x in range(256)] for band in bands]
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


def test_pictures_are_not_stretched() -> None:
    table = InputSpec.of_pictures().stretch_table()
    assert torch.equal(table, torch.arange(256, dtype=torch.uint8).expand(3, 256))


def test_normalisation_is_torchvisions() -> None:
    picture = noise(5, 7)
    expected = TF.normalize(TF.to_tensor(to_pil(picture)), list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(InputSpec.of_pictures().normalize(picture[None])[0], expected)


def test_contract_survives_json() -> None:
    spec = seco_input_spec(RGB_BANDS)
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
