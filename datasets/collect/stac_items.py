"""Parse the items of a STAC catalogue: name, zone and files of a scene, and its offset.

Items are untrusted: if anything is missing or of another type, the scene is left out.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import Array, Refused, Scene

_SCALE = 0.0001  # reflectance per digital number, as raster:bands of Earth Search has it
OFFSET = 1000  # that products have from this baseline on, in digital numbers
_OFFSET_BASELINE = 4.0
# With the offset almost no pixel is below: that would be a reflectance of -0.02.
_DARK, _DARK_SHARE = 800, 0.01
# Earth Search's names; others name an asset by its band.
_EARTH_SEARCH = {
    **{"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1"},
    **{"B6": "rededge2", "B7": "rededge3", "B8": "nir", "B8A": "nir08", "B9": "nir09"},
    **{"B11": "swir16", "B12": "swir22"},
}
_PRODUCT = re.compile(
    r"S2[A-Z]_MSIL2A_(\d{8}T\d{6})_(?:N(\d\d)(\d\d)_)?R\d{3}_T(\d\d[C-X][A-Z]{2})_(\d{8}T\d{6})\b"
)
_STRIP = re.compile(r"_S(\d{8}T\d{6})_")
_TILE = re.compile(r"(?:MGRS-|T)?(\d\d?)([C-X])[A-Z]{2}")
_KEPT = (
    *("s2:product_uri", "s2:datastrip_id", "s2:granule_id", "platform", "eo:cloud_cover"),
    *("grid:code", "sat:relative_orbit", "view:sun_elevation", "earthsearch:boa_offset_applied"),
)


@dataclass(frozen=True)
class Files:
    """Where a scene's pixels are, and how they become those of earlier baselines.

    Attributes:
        bands: Addresses by band.
        classes: Address of the scene classification, if there is one.
        offset: Digital numbers to subtract; None if only the pixels show it.
    """

    bands: dict[str, str]
    classes: str | None
    offset: int | None


class Unusable(Exception):
    """Why an item cannot be used."""


def parse(item: Any, bands: tuple[str, ...]) -> tuple[int, Scene]:
    """Return the code of an item's zone, and its scene with all shares of pixels unknown.

    Raises:
        Unusable: It lacks something, or is not made of GeoTIFFs on the web.
    """
    try:
        properties, assets = dict(item["properties"]), dict(item["assets"])
        start = datetime.fromisoformat(properties["datetime"])
        cloud = float(properties["eo:cloud_cover"])
        product = _PRODUCT.match(str(properties.get("s2:product_uri") or item["id"]))
        name = _name(str(item["id"]), product, properties, start)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unusable("no id, time, clouds or assets") from error
    if start.tzinfo is None or not math.isfinite(cloud):
        raise Unusable("no id, time, clouds or assets")
    baseline = _baseline(properties, product)
    files = {band: _address(assets, (_EARTH_SEARCH[band], band)) for band in bands}
    addresses = {band: address for band, address in files.items() if address is not None}
    if len(addresses) < len(bands):
        raise Unusable("a band is not a GeoTIFF on the web")
    offset, words = _offset(item.get("collection"), properties, assets, baseline)
    kept = {key: properties[key] for key in _KEPT if _is_plain(properties.get(key))}
    scene = Scene(
        name=name,
        start=start.astimezone(UTC),
        cloud_percent=cloud,
        clear_fraction=None,
        valid_fraction=1.0,
        baseline=f"{baseline:05.2f}",
        is_clamped=baseline >= _OFFSET_BASELINE and offset != OFFSET,
        properties={"id": str(item["id"])[:200], **kept, "offset": words},
        key=Files(addresses, _address(assets, ("scl", "SCL")), offset),
    )
    return _epsg(properties, product), scene


def harmonised(images: dict[str, Array], offset: int | None) -> dict[str, Array]:
    """Subtract the offset of later baselines.

    What has data stays at 1 at least, as 0 says that there is none.

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


def _name(
    item_id: str, product: re.Match[str] | None, properties: Mapping[str, Any], start: datetime
) -> str:
    """Make Earth Engine's system:index, or else a name that begins with the time and is as safe."""
    if product is not None:
        sensed, _, _, tile, made = product.groups()
        strip = _STRIP.search(str(properties.get("s2:datastrip_id")))
        return f"{sensed}_{strip[1] if strip else made}_T{tile}"
    safe = re.sub("[^A-Za-z0-9]+", "_", item_id)[:60]
    digest = hashlib.sha256(item_id.encode(errors="replace")).hexdigest()[:8]
    return f"{start.astimezone(UTC):%Y%m%dT%H%M%S}_{safe}_{digest}"


def _epsg(properties: Mapping[str, Any], product: re.Match[str] | None) -> int:
    """Return the code of the UTM zone, from the extension that has it."""
    for key in ("proj:code", "proj:epsg"):
        code = str(properties.get(key)).removeprefix("EPSG:")
        if re.fullmatch(r"32[67]\d\d", code):
            return int(code)
    texts = [str(properties.get(key)) for key in ("grid:code", "s2:mgrs_tile")]
    for text in [*texts, *([product[4]] if product else [])]:
        tile = _TILE.fullmatch(text)
        if tile is not None:
            return (32600 if tile[2] >= "N" else 32700) + int(tile[1])
    raise Unusable("no UTM zone")


def _baseline(properties: Mapping[str, Any], product: re.Match[str] | None) -> float:
    for key in ("s2:processing_baseline", "processing:version"):
        text = str(properties.get(key))
        if re.fullmatch(r"\d{1,2}\.\d{1,2}", text):
            return float(text)
    if product is not None and product[2]:
        return float(f"{product[2]}.{product[3]}")
    raise Unusable("no processing baseline")


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
        return None, "subtracted by the catalogue, as the pixels tell and its flag denies"
    stated = _stated_offset(assets)
    if stated is None or stated == OFFSET:
        return OFFSET, f"{OFFSET} subtracted here"
    if stated == 0:
        return 0, "none, as raster:bands tells"
    raise Unusable("an unknown offset")


def _stated_offset(assets: Mapping[str, Any]) -> int | None:
    """Return the offset that raster:bands gives for red, in digital numbers."""
    try:
        asset = assets["red"] if "red" in assets else assets["B04"]
        band = asset["raster:bands"][0]
        offset, scale = float(band["offset"]), float(band["scale"])
        stated = round(-offset / scale)
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError):
        return None
    if not math.isclose(scale, _SCALE):
        raise Unusable("values in another unit")
    return stated


def _address(assets: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Find an asset by its key or by the band it says to have, and return its address."""
    names = tuple(dict.fromkeys([*names, *(_padded(name) for name in names)]))
    for key in names:
        if (address := _geotiff(assets.get(key))) is not None:
            return address
    for asset in assets.values():
        address = _geotiff(asset)
        if address is not None and _only_band(asset) in names:
            return address
    return None


def _padded(name: str) -> str:
    """Return B01 for B1."""
    return f"B0{name[1:]}" if name in RESOLUTION_M and len(name) == 2 else name


def _only_band(asset: Any) -> str | None:
    bands = asset.get("eo:bands") or asset.get("bands")
    if not isinstance(bands, list) or len(bands) != 1 or not isinstance(bands[0], dict):
        return None
    return str(bands[0].get("name"))


def _geotiff(asset: Any) -> str | None:
    """Return the address of a GeoTIFF on the web: no file of this machine, no other driver."""
    if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
        return None
    kind, href = str(asset.get("type", "")), asset["href"]
    try:
        parts = urlsplit(href)
    except ValueError:
        return None
    is_tiff = kind.startswith("image/tiff") or (not kind and parts.path.endswith((".tif", ".tiff")))
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and href.isprintable()
    return href if is_tiff and is_web else None


def _is_plain(value: Any) -> bool:
    """Tell whether a value may go into the metadata: a number, a word."""
    if isinstance(value, str):
        return len(value) <= 200
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
