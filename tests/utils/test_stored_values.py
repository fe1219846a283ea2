"""NDVI of 8-bit bands: its formula, its place, and the same numbers in training and evaluation."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch

from datasets.bands import check_bands, seco_input_spec, with_ndvi
from utils.errors import UserError
from utils.input_spec import INPUT_NORMS, DataSpec, InputSpec, input_transform
from utils.stored_values import NDVI, add_ndvi, ndvi, stored_bands

BANDS = ("B4", NDVI, "B2", "B8")
QUANTILES = {"B2": (3.0, 88.0), "B4": (0.0, 129.0), "B8": (10.0, 200.0)}
ALL_PAIRS = torch.cartesian_prod(*[torch.arange(256, dtype=torch.uint8)] * 2).T


def test_ndvi_is_exact_for_all_stored_values() -> None:
    expected = [
        max(0, floor(255 * Fraction(n - r, max(1, n + r)))) for n, r in ALL_PAIRS.T.tolist()
    ]
    found = ndvi(*ALL_PAIRS)
    assert found.dtype == torch.uint8
    assert found.tolist() == expected


def test_ndvi_is_that_of_ssl4eco_up_to_a_step() -> None:
    """``calculate_ndvi`` and ``calc_ndvi_save_patch`` of its data_download/download_ssl4eco.py."""
    nir_band, red_band = ALL_PAIRS.numpy().astype(np.float32)
    theirs = (nir_band - red_band) / (nir_band + red_band + 0.00001)
    theirs[theirs < 0] = 0
    theirs = (theirs * 10_000).astype(np.uint16)  # as reflectance, which SeCo stores in 255 steps
    steps = theirs.astype(int) * 255 // 10_000
    assert np.abs(ndvi(*ALL_PAIRS).numpy().astype(int) - steps).max() <= 1


@pytest.mark.parametrize("shape", [(), (2, 5)])
def test_ndvi_is_inserted_at_its_place(shape: tuple[int, ...]) -> None:
    stored = torch.randint(256, (*shape, 3, 4, 6), dtype=torch.uint8)
    red, blue, near_infrared = stored.unbind(-3)
    assert stored_bands(BANDS) == ("B4", "B2", "B8")
    expected = torch.stack([red, ndvi(near_infrared, red), blue, near_infrared], -3)
    assert torch.equal(add_ndvi(stored, BANDS), expected)
    assert add_ndvi(stored, BANDS[2:]) is stored


@pytest.mark.difference("ndvi")
@pytest.mark.parametrize("norm", INPUT_NORMS)
def test_evaluation_computes_the_ndvi_of_the_training(norm: str) -> None:
    spec = with_ndvi(seco_input_spec(stored_bands(BANDS), QUANTILES), BANDS)
    assert (spec.bands, spec.low[1], spec.high[1]) == (BANDS, 0.0, 255.0)
    assert InputSpec.from_dict(spec.to_dict()) == spec
    data = DataSpec("x", ("B2", "B4", "B8"), (100.0,) * 3, (3000.0,) * 3)
    transform = input_transform(spec, data, norm)
    assert transform.bands == ("B4", "B2", "B8")
    dn = np.random.default_rng(0).integers(0, 12_000, (3, 50, 50), dtype=np.uint16)
    dn[:, 0] = 0
    stored = torch.from_numpy(np.minimum(dn.astype(int) * 255 // 10_000, 255).astype(np.uint8))
    patches = add_ndvi(stored, BANDS)
    rows = zip(spec.stretch_table(), patches, strict=True)
    pictures = torch.stack([row[plane.int()] for row, plane in rows])
    found = torch.from_numpy(transform.to_picture(dn))
    assert torch.equal(found[1], patches[1])
    if norm == "auto":
        assert torch.equal(found, pictures)
    again = input_transform(transform.spec, data, "auto")
    assert np.array_equal(again.to_picture(dn), found.numpy())
    other = input_transform(with_ndvi(spec, ("B4", "B2", "B8", NDVI)), data, norm)
    assert other.fingerprint() != transform.fingerprint()


def test_ndvi_without_its_bands_is_refused() -> None:
    with pytest.raises(UserError, match="NDVI is computed from B8 and B4: name them next to B4"):
        InputSpec.of_pictures(("B4", NDVI))
    with pytest.raises(UserError, match="leave it out"):
        check_bands(BANDS)
    content = InputSpec.of_pictures(BANDS).to_dict() | {"bands": ["B4", NDVI, "B2", "B3"]}
    with pytest.raises(ValueError, match="NDVI comes with B8 and B4"):
        InputSpec.from_dict(content)
    data = DataSpec.of_reflectance("Oceans", ("B2", "B4"))
    with pytest.raises(UserError, match="but Oceans has no B8:"):
        input_transform(InputSpec.of_pictures(BANDS), data, "auto")
