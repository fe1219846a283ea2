"""Parse the items of a STAC catalogue: name, zone and files of a scene, and its offset.

Items are untrusted: if anything is missing or of another type, the scene is left out.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from datasets.bands import two_digit_name
from datasets.collect.scenes import Array, Refused, Scene

_SCALE = 0.0001  # reflectance per digital number, as raster:bands of Earth Search has it
OFFSET = 1000  # that products have from this baseline on, in digital numbers
_OFFSET_BASELINE = 4.0
# With the offset almost no pixel is below: that would be a reflectance of -0.02.
_DARK, _DARK_SHARE = 800, 0.01
# Earth Search's names; others name an asset by its band, as B1 or B01.
_EARTH_SEARCH = {
    **{"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1"},
    **{"B6": "rededge2", "B7": "rededge3", "B8": "nir", "B8A": "nir08", "B9": "nir09"},
    **{"B11": "swir16", "B12": "swir22", "SCL": "scl"},
}
# Names of products: sentinels.copernicus.eu, Sentinel-2 Products Specification Document.
_PRODUCT = re.compile(
    r"S2[A-Z]_MSIL2A_(\d{8}T\d{6})_(?:N(\d\d)(\d\d)_)?R\d{3}"
    r"_T((?:0[1-9]|[1-5]\d|60)[C-X][A-Z]{2})_(\d{8}T\d{6})\b"
)
_STRIP = re.compile(r"_S(\d{8}T\d{6})_")
_KEPT = (
    *("s2:product_uri", "s2:datastrip_id", "s2:granule_id", "platform", "eo:cloud_cover"),
    *("grid:code", "sat:relative_orbit", "view:sun_elevation", "earthsearch:boa_offset_applied"),
)


class Files(NamedTuple):
    """Files of a scene, and how to correct their values."""

    bands: dict[str, str]  # address of each band's file
    classes: str | None  # address of the scene classification, if there is one
    offset: int | None  # DN to subtract, see ``_offset``


def parse(item: Any, bands: tuple[str, ...]) -> tuple[int, Scene]:
    """Parse an item.

    Args:
        item: Decoded JSON of the item, of any type.
        bands: Names of the bands that it must have.

    Returns:
        EPSG code of its UTM zone, and its scene with all shares of pixels unknown.

    Raises:
        Refused: It lacks something, or is not made of GeoTIFFs on the web.
    """
    try:
        properties, assets = dict(item["properties"]), dict(item["assets"])
        item_id = str(item["id"])
        product = _PRODUCT.match(str(properties.get("s2:product_uri") or item_id))
        start = datetime.fromisoformat(properties["datetime"])
        cloud = float(properties["eo:cloud_cover"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Refused("no id, time, clouds or assets") from error
    if product is None or start.tzinfo is None or not math.isfinite(cloud):
        raise Refused("no name of a product, time zone or clouds")
    sensed, major, minor, tile, made = product.groups()
    strip = _STRIP.search(str(properties.get("s2:datastrip_id")))
    stated = str(properties.get("s2:processing_baseline") or f"{major}.{minor}")
    if not re.fullmatch(r"\d{1,2}\.\d{1,2}", stated):
        raise Refused("no processing baseline")
    baseline = float(stated)
    files = {band: _address(assets, band) for band in bands}
    addresses = {band: address for band, address in files.items() if address is not None}
    if len(addresses) < len(bands):
        raise Refused("a band is not a GeoTIFF on the web")
    offset, words = _offset(item.get("collection"), properties, assets, baseline)
    kept = {key: value for key in _KEPT if _is_plain(value := properties.get(key))}
    scene = Scene(
        name=f"{sensed}_{strip[1] if strip else made}_T{tile}",  # Earth Engine's system:index
        start=start.astimezone(UTC),
        cloud_percent=cloud,
        clear_fraction=None,
        valid_fraction=1.0,
        baseline=f"{baseline:05.2f}",
        is_clamped=baseline >= _OFFSET_BASELINE and offset != OFFSET,
        properties={"id": item_id[:200], **kept, "offset": words},
        key=Files(addresses, _address(assets, "SCL"), offset),
    )
    return (32600 if tile[2] >= "N" else 32700) + int(tile[:2]), scene


def harmonised(images: dict[str, Array], offset: int | None) -> dict[str, Array]:
    """Subtract the offset of later baselines; valid pixels stay at least 1, since 0 means no data.

    Args:
        images: Digital numbers per band.
        offset: Digital numbers to subtract; None if the catalogue denies that it did, which is
            often wrong. Then dark pixels show that it did.

    Raises:
        Refused: The patch is too bright to decide.
    """
    if offset is None:
        values = [image[image > 0] for image in images.values()]
        if not any((value < _DARK).mean() >= _DARK_SHARE for value in values if value.size):
            raise Refused(f"it is not known whether its offset of {OFFSET} has been subtracted")
        return images
    if offset == 0:
        return images
    return {
        band: np.where(image > 0, np.maximum(image, offset + 1) - offset, 0).astype(np.uint16)
        for band, image in images.items()
    }


def _offset(
    collection: Any, properties: Mapping[str, Any], assets: Mapping[str, Any], baseline: float
) -> tuple[int | None, str]:
    """Return what is to be subtracted, and a note about it.

    Earth Search subtracts the offset itself and says so by a flag; in its sentinel-2-l2a of 2022 to
    2025 the flag is wrong for many scenes that deny it (earth-search issues 66 and 71), and its
    raster:bands has the offset also where it is subtracted. Others give the products as they are.
    """
    if baseline < _OFFSET_BASELINE:
        return 0, "none, for the baseline is older"
    applied = properties.get("earthsearch:boa_offset_applied")
    if applied is True:
        return 0, "subtracted by the catalogue"
    if applied is False and collection == "sentinel-2-l2a":
        return None, "subtracted by the catalogue, as the pixels show and its flag denies"
    try:  # in digital numbers, as raster:bands gives it for red
        band = (assets.get("red") or assets["B04"])["raster:bands"][0]
        stated, scale = round(-float(band["offset"]) / float(band["scale"])), float(band["scale"])
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError):
        stated, scale = OFFSET, _SCALE
    if not math.isclose(scale, _SCALE) or stated not in (0, OFFSET):
        raise Refused("an unknown offset, or values in another unit")
    if stated == 0:
        return 0, "none, as raster:bands says"
    return OFFSET, f"{OFFSET} subtracted here"


def _address(assets: Mapping[str, Any], band: str) -> str | None:
    """Return the address of a GeoTIFF on the web: no file of this machine, no other driver."""
    for name in (_EARTH_SEARCH[band], band, two_digit_name(band)):
        asset = assets.get(name)
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            continue
        kind, href = str(asset.get("type", "")), asset["href"]
        try:
            parts = urlsplit(href)
        except ValueError:
            continue
        is_tiff = kind.startswith("image/tiff") or (not kind and parts.path.endswith(".tif"))
        if is_tiff and parts.scheme in ("http", "https") and parts.hostname and href.isprintable():
            return href
    return None


def _is_plain(value: Any) -> bool:
    """Return whether the metadata may have a value: a word or a finite number."""
    is_word = isinstance(value, str) and len(value) <= 200
    # An integer may be too large for a float.
    return is_word or (isinstance(value, int | float) and abs(value) < math.inf)
