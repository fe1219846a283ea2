"""Scenes and pixels as Earth Engine gives them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import Array, Refused, Scene

PROPERTIES = (
    *("PRODUCT_ID", "SPACECRAFT_NAME", "MGRS_TILE", "SENSING_ORBIT_NUMBER", "PROCESSING_BASELINE"),
    *("CLOUDY_PIXEL_PERCENTAGE", "MEAN_SOLAR_ZENITH_ANGLE", "system:time_start"),
)


def parse_scene(properties: dict[str, Any], bands: Sequence[str]) -> Scene:
    """Read what a search tells of a scene: its ``PROPERTIES``, and shares of the patch's pixels.

    Args:
        properties: ``known`` and ``clear``, and by the name of each band where it has data.
        bands: Of which all have to have data.

    Raises:
        KeyError, TypeError, ValueError, OverflowError, OSError: It is not told as it should be.
    """
    start = datetime.fromtimestamp(properties["system:time_start"] / 1000, UTC)
    known = _share(properties, "known")
    # Half a patch tells enough; where less is known, the share of clouds in the scene decides.
    clear = _share(properties, "clear") / known if known >= 0.5 else None
    baseline = str(properties.get("PROCESSING_BASELINE", ""))
    return Scene(
        name=_check_name(properties["scene"]),
        start=start,
        cloud_percent=float(properties["CLOUDY_PIXEL_PERCENTAGE"]),
        clear_fraction=None if clear is None else round(clear, 6),
        valid_fraction=round(min(_share(properties, band) for band in bands), 6),
        baseline=baseline,
        is_clamped=baseline >= "04.00",  # uint16 without the offset has no room below 0
        properties={name: properties[name] for name in PROPERTIES if name in properties},
    )


def native(band: str, image: Array) -> Array:
    """Return a band's own pixels, of which each came as a block of equal ones of 10 m.

    Args:
        band: Name.
        image: Shape (H, W), on the grid of 10 m.

    Raises:
        Refused: A block is not of one value: the band's grid is not that of the patch.
    """
    factor = RESOLUTION_M[band] // 10
    pixels = np.array(image[::factor, ::factor], np.uint16, order="C")
    if factor > 1 and not np.array_equal(pixels.repeat(factor, 0).repeat(factor, 1), image):
        raise Refused(
            f"its {band} does not come in whole pixels of {RESOLUTION_M[band]} m, so it lies on "
            "another grid than the patch"
        )
    return pixels


def zone_of(name: str) -> int:
    """Return the UTM zone of ..._T32UQD; 0 if the name has none."""
    tile = name.rpartition("_T")[2]
    return int(tile[:2]) if tile[:2].isdecimal() else 0


def _share(properties: dict[str, Any], name: str) -> float:
    """Return a mean of pixels; the service leaves out or nulls what has none."""
    return float(properties.get(name) or 0)


def _check_name(name: Any) -> str:
    """Return a system:index that is safe as the name of a folder, else raise a ``ValueError``."""
    if not isinstance(name, str) or not name.replace("_", "").isalnum() or not name.isascii():
        raise ValueError("not the name of a scene")
    return name
