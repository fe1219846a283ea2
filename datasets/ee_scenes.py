"""Scenes as Earth Engine tells of them."""

from datetime import UTC, datetime
from typing import Any

from datasets.collect_scenes import Scene

PROPERTIES = (
    *("PRODUCT_ID", "SPACECRAFT_NAME", "MGRS_TILE", "SENSING_ORBIT_NUMBER", "PROCESSING_BASELINE"),
    *("CLOUDY_PIXEL_PERCENTAGE", "MEAN_SOLAR_ZENITH_ANGLE", "system:time_start"),
)


def parse_scene(properties: dict[str, Any]) -> Scene:
    """Read what a search tells of a scene: its ``PROPERTIES``, and shares of the patch's pixels.

    Raises:
        KeyError, TypeError, ValueError, OverflowError, OSError: It is not told as it should be.
    """
    start = datetime.fromtimestamp(properties["system:time_start"] / 1000, UTC)
    known = _share(properties, "known")
    # Half a patch tells enough; where less is known, the share of clouds in the scene decides.
    clear = _share(properties, "clear") / known if known >= 0.5 else None
    return Scene(
        name=_check_name(properties["scene"]),
        start=start,
        cloud_percent=float(properties["CLOUDY_PIXEL_PERCENTAGE"]),
        clear_fraction=None if clear is None else round(clear, 6),
        valid_fraction=round(_share(properties, "valid"), 6),
        baseline=str(properties.get("PROCESSING_BASELINE", "")),
        properties={name: properties[name] for name in PROPERTIES if name in properties},
    )


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
