"""The settings that determine the content of a collection; its plan records them.

Each setting is declared once: default, flag, limits and help text. A resumed run may not change it.
"""

from dataclasses import dataclass, field, fields, replace
from datetime import date
from typing import Any, TypeVar

from datasets.bands import ALL_BANDS, RESOLUTION_M, RGB_BANDS, check_bands
from utils.errors import UserError, quoted

PLAN_NAME = "plan.json"  # records the settings, in the folder of the collection
EXIT_LATER = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
PATCH_PX = 264  # of the archives; 10 m each
# In one request for scenes: more take Earth Engine too long, and catalogues search one.
PLACES_PER_SEARCH = {"earthengine": 5, "stac": 1}
COLLECTIONS = {"earthengine": "COPERNICUS/S2_SR_HARMONIZED", "stac": "sentinel-2-l2a"}
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
# Title of the group of flags in --help that begins with a setting.
GROUPS = {
    "num_locations": "where and when (recorded in the plan)",
    "source": "which scenes (recorded in the plan)",
    "bands": "what is written (recorded in the plan)",
}
_LAUNCH = date(2015, 6, 23)  # of the first Sentinel-2
_MOST_PLACES = 5_000_000  # with their spares
# A request of Earth Engine has at most 48 MiB, counted as 3 bytes per pixel and band: 1182 squared.
_MOST_PX = 1182
_COARSEST_PX = max(RESOLUTION_M.values()) // 10  # pixels of 10 m along a pixel of 60 m
_SETTINGS_OF_OTHERS = {"source": ("collection", "stac_url"), "match_file": ("num_locations",)}
T = TypeVar("T")


def _setting(default: T, text: str, **more: Any) -> T:
    """Declare a setting.

    Args:
        default: Value of the setting if the flag is not given.
        text: Help text of the flag.
        **more: ``limits`` (inclusive), ``flag`` if its name is not that of the setting, and
            arguments of ``add_argument`` such as ``choices``.
    """
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class Settings:
    """Flags of the downloader that its plan records; the texts of the flags explain them."""

    num_locations: int = _setting(200_000, "Places to collect.", limits=(1, _MOST_PLACES))
    seed: int = _setting(42, "Seed of places and dates.", limits=(0, 2**32))
    sampler: str = _setting(
        "gaussian",
        "Where places are drawn: around cities, on all land, or on the land within --bounds.",
        choices=("gaussian", "uniform", "bounded"),
    )
    std_km: float = _setting(
        50.0, "Standard deviation around a city along either axis, in km.", limits=(0.001, 5000)
    )
    bounds: tuple[float, float, float, float] | None = _setting(
        None,
        "Bounds of --sampler bounded in degrees; a west above the east crosses 180 degrees.",
        **{"type": float, "nargs": 4, "metavar": ("W", "S", "E", "N")},
    )
    cities: str = _setting(
        "geonames", "CSV with lat, lng and population; geonames is the table of this project."
    )
    match_file: str | None = _setting(
        None, "CSV with lat and lng of places to collect instead of sampled ones."
    )
    land_mask: bool = _setting(
        True, "Also keep places at sea.", flag="--no_land_mask", action="store_false"
    )
    patch_px: int = _setting(
        PATCH_PX,
        "Side of a patch in pixels of 10 m, a multiple of 6.",
        limits=(_COARSEST_PX, _MOST_PX),
    )
    spares: float = _setting(2.0, "Places in reserve, per place to collect.", limits=(0, 1000))
    num_dates: int = _setting(5, "Scenes of each place.", limits=(1, 1000))
    interval_days: int = _setting(84, "Days from one scene's window to the next.", limits=(1, 3650))
    window_days: int = _setting(15, "Length of a window in days.", limits=(1, 3650))
    max_shift_days: int = _setting(
        365, "Bound of the random shift of a place's windows, in days.", limits=(0, 3650)
    )
    reference_date: str = _setting(
        "",
        "Date 28 days after the centre of the newest window (default: the day of the plan).",
        metavar="YYYY-MM-DD",
    )
    source: str = _setting(
        "earthengine", "Service to use; stac needs no account.", choices=tuple(COLLECTIONS)
    )
    collection: str = _setting(
        COLLECTIONS["earthengine"],
        "Collection of scenes (default: "
        + ", ".join(f"{name} of {source}" for source, name in COLLECTIONS.items())
        + ").",
    )
    stac_url: str = _setting("", f"Address of the STAC catalogue (default: {EARTH_SEARCH}).")
    cloud_pct: float = _setting(10.0, "Most clouds of a scene, in percent.", limits=(0.001, 100))
    cloud_score: str = _setting(
        "cs_cdf",
        "Band of Cloud Score+ to use; a STAC source uses the scene classification.",
        choices=("cs_cdf", "cs", "none"),
    )
    clear_threshold: float = _setting(
        0.65, "Cloud score from which a pixel is clear, in 0..1.", limits=(0, 1)
    )
    clear_fraction: float = _setting(
        0.9, "Share of clear pixels that a patch needs, in 0..1.", limits=(0, 1)
    )
    scene_choice: str = _setting(
        "least_cloudy",
        "Which of the scenes in a window is tried first; nearest to the middle of the window.",
        choices=("least_cloudy", "nearest", "newest"),
    )
    bands: tuple[str, ...] = _setting(
        ALL_BANDS,
        "Bands to collect (default: all 12 of level 2A).",
        **{"nargs": "+", "choices": ALL_BANDS, "metavar": "BAND"},
    )
    dtype: str = _setting(
        "uint8",
        "Type of the stored values: 255 times reflectance, or 10,000 times.",
        choices=("uint8", "uint16"),
    )
    compress: str = _setting(
        "deflate",
        "Compression of the files: lossless, or as small as in the published archives.",
        choices=("deflate", "jpeg"),
    )
    format: str = _setting(
        "folder",
        "Layout: one file per band, or the store of datasets/seco_packed.py.",
        choices=("folder", "packed"),
    )
    preview: bool = _setting(
        False, "Also write pictures into SAVE_PATH_previews.", action="store_true"
    )


DEFAULTS = Settings()
# The choices of the original, as far as flags give them.
PAPER = Settings(
    land_mask=False,
    cloud_score="none",
    clear_fraction=0.0,
    scene_choice="newest",
    compress="jpeg",
)


def differing(planned: Settings, settings: Settings, given: set[str]) -> list[str]:
    """Return the names, of those that were given, whose values are not those of the plan."""
    return [name for name in sorted(given) if getattr(planned, name) != getattr(settings, name)]


def amended(planned: Settings, settings: Settings, given: set[str]) -> Settings:
    """Return the settings of a plan with those that were given in their places."""
    changed = differing(planned, settings, given)
    # Settings whose default depends on a changed one follow it.
    names = {*changed, *(name for cause in changed for name in _SETTINGS_OF_OTHERS.get(cause, ()))}
    return replace(planned, **{name: getattr(settings, name) for name in names})


def spelt(value: Any) -> str:
    """Spell a value as on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(spelt, value))
    return f"{value:g}" if isinstance(value, float) else quoted(str(value))


def check_settings(settings: Settings) -> None:
    """Refuse the first value that cannot work, or does not go with another."""
    for one in fields(Settings):
        value, limits = getattr(settings, one.name), one.metadata.get("limits")
        choices = one.metadata.get("choices")
        if limits is not None and not limits[0] <= value <= limits[1]:
            raise UserError(f"--{one.name} must be from {limits[0]} to {limits[1]}, not {value}")
        if choices is not None and one.name != "bands" and value not in choices:
            raise UserError(
                f"--{one.name} must be one of {', '.join(choices)}, not {quoted(value)}"
            )
    for name in ("cities", "collection"):
        value = getattr(settings, name)
        if not value or not value.isprintable():
            raise UserError(f"--{name} must be a name, not {value!a}")
    _check_area(settings)
    _check_dates(settings)
    _check_output(settings)
    if settings.source == "stac" and not settings.stac_url.startswith(("http://", "https://")):
        raise UserError(
            f"--stac_url must begin with http:// or https://, not be {quoted(settings.stac_url)!a}"
        )
    if set("@?") & set(settings.stac_url):
        raise UserError(
            "--stac_url contains a password or a query, which the plan would record: remove it; "
            "only open catalogues are supported"
        )


def _check_area(settings: Settings) -> None:
    if settings.patch_px % _COARSEST_PX:
        raise UserError(
            f"--patch_px must be a multiple of 6, for bands of 60 m, not {settings.patch_px}"
        )
    if settings.num_locations * (1 + settings.spares) > _MOST_PLACES:
        raise UserError(
            f"--num_locations {settings.num_locations} with --spares {settings.spares:g} are more "
            f"than {_MOST_PLACES} places: lower one of them"
        )
    bounds = settings.bounds
    if (settings.sampler == "bounded") != (bounds is not None):
        raise UserError("--sampler bounded and --bounds W S E N need each other: give both or none")
    if bounds is None:
        return
    west, south, east, north = bounds
    if not (-90 <= south < north <= 90 and abs(west) <= 180 and abs(east) <= 180 and west != east):
        raise UserError(
            f"--bounds {' '.join(f'{value:g}' for value in bounds)} is not an area: give west, "
            "south, east, north in degrees, south below north"
        )


def _check_dates(settings: Settings) -> None:
    try:
        reference = date.fromisoformat(settings.reference_date)
    except ValueError as error:
        raise UserError(
            f"--reference_date must be a day such as 2021-06-30, not "
            f"{quoted(settings.reference_date)!a}"
        ) from error
    windows = settings.interval_days * (settings.num_dates - 1) + settings.window_days
    span = windows + settings.max_shift_days + 28
    if (reference - _LAUNCH).days < span:
        raise UserError(
            f"--reference_date {reference} is too early: its windows go back by {span} days, to "
            f"before Sentinel-2 was launched on {_LAUNCH}, so give a later one, or lower "
            "--num_dates, --interval_days or --max_shift_days"
        )


def _check_output(settings: Settings) -> None:
    check_bands(settings.bands)
    missing = [band for band in RGB_BANDS if band not in settings.bands]
    if settings.preview and missing:
        raise UserError(f"--preview shows {missing[0]}, which --bands leaves out: add it")
    for name, value in (("compress", "jpeg"), ("format", "packed")):
        if settings.dtype == "uint16" and getattr(settings, name) == value:
            raise UserError(f"--{name} {value} holds 8 bits: give --dtype uint8 with it")


def settings_from_json(record: Any) -> Settings:
    """Return the settings that a plan recorded, checked as those of the command line.

    Raises:
        ValueError: They are not settings: a name is missing or unknown, or of another type.
        UserError: A value cannot work.
    """
    if not isinstance(record, dict) or record.keys() != vars(DEFAULTS).keys():
        raise ValueError("its settings have other names")
    for name, default in vars(DEFAULTS).items():
        if not _has_type_of(name, record[name], default):
            raise ValueError(f"its {name} is of another type")
    lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
    settings = Settings(**record | lists)
    check_settings(settings)
    return settings


def _has_type_of(name: str, value: Any, default: Any) -> bool:
    if name == "bands":
        return isinstance(value, list) and all(isinstance(band, str) for band in value)
    if name == "bounds" and value is not None:
        return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
    if default is None:
        return value is None or (name == "match_file" and isinstance(value, str))
    return _is_number(value) if isinstance(default, float) else type(value) is type(default)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # JSON has any number of digits
