"""Sentinel-2 bands: names, order, resolution, unit and quantiles, all in one place.

A SeCo patch stores reflectance as uint8: DN / 10000 clipped to 0..1, times 255, truncated; one step
is 39.2 DN. The stretch to a picture is tabulated in ``utils.input_spec``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.input_spec import RGB_QUANTILES, InputSpec, quantile_spec
from utils.stored_values import NDVI

if TYPE_CHECKING:  # the scripts parse their flags before NumPy is imported
    import numpy as np

# Ground resolution in metres. The order is that of the SeCo archives; B10 is not in level-2A data.
RESOLUTION_M = {
    "B1": 60,
    "B2": 10,
    "B3": 10,
    "B4": 10,
    "B5": 20,
    "B6": 20,
    "B7": 20,
    "B8": 10,
    "B8A": 20,
    "B9": 60,
    "B11": 20,
    "B12": 20,
}
ALL_BANDS = tuple(RESOLUTION_M)
RGB_BANDS = ("B4", "B3", "B2")  # red, green, blue: the order of the published encoders

# Bands of EuroSAT's GeoTIFFs in the order of the file: B8A comes last, not after B8 (torchgeo issue
# 2458).
EUROSAT_BANDS = (
    *("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8"),
    *("B9", "B10", "B11", "B12", "B8A"),
)
# File names of one band: B4.tif (SeCo), SCENE.B4.tif (Earth Engine's downloads), B04.tif (Sentinel
# Hub), T31UDQ_20200101T105321_B04_10m.tif (Sen2Cor), SENTINEL2A_..._FRE_B4.tif (MAJA) and
# HLS.S30.T31UDQ.2020001T105321.v2.0.B04.tif (HLS). Hidden files are left out by the first letter.
_FILE_NAME = re.compile(r"(?:[^.].*[._-])?B0?([1-9]|8A|1[12])(?:_[126]0m)?\.tiff?", re.IGNORECASE)
_USUAL_NAMES = {f"{band}.tif": band for band in RESOLUTION_M}
# Digital numbers (DN) are 10,000 times reflectance, stored as uint16 (QUANTIFICATION_VALUE in the
# Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD). In published quantiles of whole
# data sets (``BAND_QUANTILES`` of datasets/oscd/facts.py) the bright end of every band lies between
# 1,589 and 5,043, but for B10, which water vapour absorbs: 51.
_MAX_DN = 65_535
# BOA_ADD_OFFSET of processing baseline 04.00 (same document, of 2022), when applied to 0. Smaller
# values are overflows of 16 bits with sign, or stand for missing pixels.
_MIN_DN = -1000
_MAX_REFLECTANCE = 2  # clouds and glint exceed 1
_MAX_TYPICAL_DN = 20_000  # twice the reflectance of a perfect white surface
_MAX_8_BIT = 255

QUANTILES_NAME = "quantiles.json"  # of the file with those of other bands, next to the places


def two_digit_name(band: str) -> str:
    """Return the name of a band in ESA's files: B02 for B2; B8A and B10 stay."""
    return f"B{band[1:]:0>2}"


def short_name(band: str) -> str:
    """Return our name of a band that may be spelled as in ESA's files: B2 for B02 or B2."""
    return f"B{band[1:].lstrip('0')}"


def check_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the bands as a tuple; unknown, repeated or no names are a ``UserError``."""
    unknown = [band for band in bands if band not in RESOLUTION_M]
    if NDVI in unknown:
        raise UserError("NDVI is computed when B8 and B4 are trained on or evaluated: leave it out")
    if unknown:
        raise UserError(
            f"unknown band {unknown[0]}: the bands are {' '.join(ALL_BANDS)}; trainings also take "
            f"{NDVI}"
        )
    if not bands or len(set(bands)) < len(bands):
        raise UserError(f"--bands needs distinct names, not: {' '.join(bands)}")
    return tuple(bands)


def band_of(file: str) -> str | None:
    """Return which band a TIFF holds according to its name without folders, else None."""
    if file in _USUAL_NAMES:  # millions of files in the archives have these names
        return _USUAL_NAMES[file]
    match = _FILE_NAME.fullmatch(file)
    return f"B{match[1].upper()}" if match else None


def find_band_files(files: Iterable[str], folder: object) -> dict[str, str]:
    """Map bands to their files among those of a folder.

    Args:
        files: Names of files; other files are ignored.
        folder: The folder, for messages.

    Raises:
        UserError: A band has two files.
    """
    found: dict[str, str] = {}
    for file in sorted(files):
        band = band_of(file)
        if band is not None and found.setdefault(band, file) != file:
            raise UserError(f"{folder} has {found[band]} and {file} for band {band}: keep one")
    return found


def seco_input_spec(
    bands: Sequence[str], quantiles: Mapping[str, tuple[float, float]] = RGB_QUANTILES
) -> InputSpec:
    """Describe the stored values of SeCo patches.

    Args:
        bands: Names of the bands in channel order.
        quantiles: Stored values of each band that become 0 and 255, in 0..255.

    Raises:
        UserError: A band is unknown or has no quantiles.
    """
    bands = check_bands(bands)
    missing = [band for band in bands if band not in quantiles]
    if missing:
        raise UserError(
            f"no quantiles for {' '.join(missing)}: "
            "run `python datasets/seco_utils.py --data_dir DIR` once"
        )
    return quantile_spec(bands, quantiles)


def with_ndvi(spec: InputSpec, bands: Sequence[str]) -> InputSpec:
    """Add NDVI, which is not stretched, at its place among all bands, if it is one of them.

    Args:
        spec: Stored bands of SeCo patches.
        bands: These bands, and perhaps NDVI, in channel order.
    """
    if NDVI not in bands:
        return spec
    limits = zip(spec.low, spec.high, strict=True)
    return quantile_spec(bands, dict(zip(spec.bands, limits, strict=True)))


def check_dn(samples: Iterable[np.ndarray], where: str, band: str | None = None) -> None:
    """Refuse values that are not DN and would become black or white pictures.

    Samples are read until one has a pixel that only DN can have.

    Args:
        samples: Stored values, arrays of any shape; together they must show more than dark water.
        where: File or data set, for the error.
        band: Name of the band if the samples are of one band only.

    Raises:
        UserError: The values look like another unit, or all are zero.
    """
    import numpy as np

    max_dark = _MAX_REFLECTANCE if band == "B10" else _MAX_8_BIT
    low, high = np.inf, -np.inf
    for sample in samples:
        values = sample[~np.isnan(sample)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            is_typical = (values > _MAX_TYPICAL_DN).mean() <= 0.5
            if low < _MIN_DN or high > _MAX_DN or not is_typical:
                break
            if high > max_dark:
                return
    if high <= 0:
        raise UserError(f"{where} holds no value above 0: replace it")
    unit, remedy = _guess_unit(low, high)
    raise UserError(
        f"{where} holds values from {low:g} to {high:g}, {unit}, but digital numbers (10,000 times "
        f"reflectance) are expected: {remedy}"
    )


def _guess_unit(low: float, high: float) -> tuple[str, str]:
    """Return what values between two limits look like, and how to get DN."""
    if low < _MIN_DN:
        return "as in signed 16-bit files", "store them as uint16, with 0 where there is no data"
    if high > _MAX_DN:
        return "beyond 16 bits", "take the original files"
    if high <= _MAX_REFLECTANCE:
        return "as reflectance has", "multiply them by 10,000 and store them as uint16"
    if low >= 0 and high <= _MAX_8_BIT:
        return "as 8-bit pictures have", "take the original files"
    if high > _MAX_TYPICAL_DN:
        return "as 16-bit pictures have", "take the original files"
    return "as normalised data have", "take the original files"


def check_stored(samples: Iterable[np.ndarray], where: str) -> None:
    """Refuse SeCo patches of reflectance 0 to 1 that was stored as uint8, which are black.

    Samples are read until one is brighter.

    Args:
        samples: Stored values, uint8, of any shape.
        where: File or data set, for the error.
    """
    brightest = -1
    for sample in samples:
        brightest = max(brightest, int(sample.max()))
        if brightest > 1:
            return
    if brightest >= 0:
        raise UserError(
            f"{where} holds values of 0 and 1 only, as reflectance has, but SeCo patches are 255 "
            "times reflectance: store floor(255 * min(reflectance, 1))"
        )
