"""What decides what a collection holds; the plan records it, and a resumed run may not differ."""

from dataclasses import dataclass, replace
from typing import Any

from datasets.bands import ALL_BANDS
from utils.errors import quoted

PLAN_NAME = "plan.json"  # records the settings, in the folder of the collection
PATCH_PX = 264  # of the archives; 10 m each


@dataclass(frozen=True)
class Settings:
    """Flags of the downloader that its plan records.

    Attributes:
        num_locations: Places to collect.
        seed: Of places and dates.
        sampler: "gaussian" around cities, "uniform" on the globe, or "bounded" by ``bounds``.
        std_km: Standard deviation of the Gaussian along either axis.
        bounds: West, south, east, north in degrees; a west above the east crosses 180 degrees.
        cities: "geonames", or the path of a CSV with lat, lng and population.
        match_file: CSV of places to collect instead of sampled ones.
        land_mask: Drop places whose centre is at sea.
        patch_px: Side of a patch in pixels of 10 m, a multiple of 6.
        spares: Places in reserve per place that is asked for.
        num_dates: Windows per place.
        interval_days: From one window to the next.
        window_days: Length of a window.
        max_shift_days: All windows of a place are shifted back by a random 0 .. max_shift_days - 1.
        reference_date: ISO date; the newest window of an unshifted place is centred 28 days before.
        source: "earthengine" or "stac".
        collection: Its image collection.
        stac_url: Address of the STAC interface; empty for Earth Engine.
        cloud_pct: Scenes with this share of clouds or more are left out, in percent.
        cloud_score: Band of Cloud Score+, or "none"; a STAC source takes the scene classification.
        clear_threshold: Cloud score from which a pixel is clear, 0 .. 1.
        clear_fraction: Share of clear pixels that a patch needs, 0 .. 1.
        scene_choice: "least_cloudy", "nearest" to the middle of the window, or "newest".
        bands: In the order of the archives.
        dtype: "uint8" as the archives, or "uint16" with digital numbers.
        compress: "deflate", or "jpeg" for the size of the archives.
        format: "folder", or "packed" for a packed store.
        preview: Also write a picture of each place.
    """

    num_locations: int = 200_000
    seed: int = 42
    sampler: str = "gaussian"
    std_km: float = 50.0
    bounds: tuple[float, float, float, float] | None = None
    cities: str = "geonames"
    match_file: str | None = None
    land_mask: bool = True
    patch_px: int = PATCH_PX
    spares: float = 2.0
    num_dates: int = 5
    interval_days: int = 84
    window_days: int = 15
    max_shift_days: int = 365
    reference_date: str = ""
    source: str = "earthengine"
    collection: str = "COPERNICUS/S2_SR_HARMONIZED"
    stac_url: str = ""
    cloud_pct: float = 10.0
    cloud_score: str = "cs_cdf"
    clear_threshold: float = 0.65
    clear_fraction: float = 0.9
    scene_choice: str = "least_cloudy"
    bands: tuple[str, ...] = ALL_BANDS
    dtype: str = "uint8"
    compress: str = "deflate"
    format: str = "folder"
    preview: bool = False


# Settings whose default follows from another one.
_FOLLOWERS = {"source": ("collection", "stac_url"), "match_file": ("num_locations",)}


def differing(planned: Settings, settings: Settings, given: set[str]) -> list[str]:
    """Return the names, of those that were given, whose values are not those of the plan."""
    return [name for name in sorted(given) if getattr(planned, name) != getattr(settings, name)]


def amended(planned: Settings, settings: Settings, given: set[str]) -> Settings:
    """Return the settings of a plan with those that were given in their places."""
    changed = differing(planned, settings, given)
    names = {*changed, *(name for cause in changed for name in _FOLLOWERS.get(cause, ()))}
    return replace(planned, **{name: getattr(settings, name) for name in names})


def spelt(value: Any) -> str:
    """Spell a value as on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(spelt, value))
    return f"{value:g}" if isinstance(value, float) else quoted(str(value))
