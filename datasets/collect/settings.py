"""The flags of the downloader, each declared once; the plan records ``Settings``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
NEWEST_DAYS = 28  # the original's newest window is centred as long before its reference
_LAUNCH = date(2015, 6, 23)  # of the first Sentinel-2
_MOST_PLACES = 5_000_000  # with their spares
# A request of Earth Engine has at most 48 MiB, counted as 3 bytes per pixel and band: 1182 squared.
_MOST_PX = 1182
_COARSEST_PX = max(RESOLUTION_M.values()) // 10  # pixels of 10 m along a pixel of 60 m
_SECONDS = (0.001, 1e6)  # longer waits end in errors of the system
_ON: dict[str, Any] = {"action": "store_true"}
_BOUNDS: dict[str, Any] = {"type": float, "nargs": 4, "metavar": ("W", "S", "E", "N")}
_BANDS: dict[str, Any] = {"nargs": "+", "choices": ALL_BANDS, "metavar": "BAND"}
T = TypeVar("T")


def _flag(default: T, text: str, allowed: tuple[Any, ...] = (), **options: Any) -> T:
    """Declare default, help text, choices or inclusive limits, and options of argparse."""
    return field(default=default, metadata={"help": text, "allowed": allowed, **options})


@dataclass(frozen=True)
class Settings:
    """What determines the content of a collection; a resumed run may not change it."""

    num_locations: int = _flag(200_000, "Places to collect.", (1, _MOST_PLACES))
    seed: int = _flag(42, "Seed of places and dates.", (0, 2**32))
    sampler: str = _flag(
        "gaussian",
        "Where places are drawn: around cities, on all land, or on the land within --bounds.",
        ("gaussian", "uniform", "bounded"),
    )
    std_km: float = _flag(50.0, "Deviation from a city along either axis, in km.", (0.001, 5000))
    bounds: tuple[float, float, float, float] | None = _flag(
        None, "Degrees of --sampler bounded; a west above the east crosses 180.", **_BOUNDS
    )
    cities: str = _flag("geonames", "CSV with lat, lng and population, or this project's table.")
    match_file: str | None = _flag(
        None, "CSV with lat and lng of the places, such as the places.csv of another plan."
    )
    land_mask: bool = _flag(
        True, "Also keep places at sea.", flag="--no_land_mask", action="store_false"
    )
    patch_px: int = _flag(
        PATCH_PX, "Side of a patch in pixels of 10 m, a multiple of 6.", (_COARSEST_PX, _MOST_PX)
    )
    spares: float = _flag(2.0, "Places in reserve, per place to collect.", (0, 1000))
    num_dates: int = _flag(5, "Scenes of each place.", (1, 1000))
    interval_days: int = _flag(84, "Days from one scene's window to the next.", (1, 3650))
    window_days: int = _flag(15, "Length of a window in days.", (1, 3650))
    max_shift_days: int = _flag(365, "Bound of a place's random shift in days.", (0, 3650))
    reference_date: str = _flag(
        "",
        "Date 28 days after the centre of the newest window (default: the day of the plan).",
        metavar="YYYY-MM-DD",
    )
    source: str = _flag("earthengine", "Service; stac needs no account.", tuple(COLLECTIONS))
    collection: str = _flag(
        COLLECTIONS["earthengine"],
        f"Collection of scenes (default: {', for stac '.join(COLLECTIONS.values())}).",
    )
    stac_url: str = _flag("", f"Address of the STAC catalogue (default: {EARTH_SEARCH}).")
    cloud_pct: float = _flag(10.0, "Most clouds of a scene, in percent.", (0.001, 100))
    cloud_score: str = _flag(
        "cs_cdf",
        "Band of Cloud Score+ to use; a STAC source uses the scene classification.",
        ("cs_cdf", "cs", "none"),
    )
    clear_threshold: float = _flag(0.65, "Score of clear pixels, at least, in 0..1.", (0, 1))
    clear_fraction: float = _flag(0.9, "Least share of clear pixels in a patch, in 0..1.", (0, 1))
    scene_choice: str = _flag(
        "least_cloudy",
        "Which of the scenes in a window is tried first; nearest to the middle of the window.",
        ("least_cloudy", "nearest", "newest"),
    )
    bands: tuple[str, ...] = _flag(ALL_BANDS, "Bands (default: all 12 of level 2A).", **_BANDS)
    dtype: str = _flag("uint8", "Values: 255 or 10,000 times reflectance.", ("uint8", "uint16"))
    compress: str = _flag("deflate", "Lossless, or as in the archives.", ("deflate", "jpeg"))
    format: str = _flag(
        "folder",
        "Layout: one file per band, or the store of datasets/seco_packed.py.",
        ("folder", "packed"),
    )
    preview: bool = _flag(False, "Also write pictures into SAVE_PATH_previews.", **_ON)


@dataclass(frozen=True)
class Fetching:
    """Flags of a run, which may differ each time."""

    num_workers: int = _flag(48, "Places in progress at a time.", (1, 1000))
    max_in_flight: int = _flag(40, "Requests at a time of all shards together.", (1, 1e6))
    max_rate: float = _flag(90.0, "Requests per second of all shards together.", (0.001, 1e9))
    timeout: float = _flag(120.0, "Seconds after which a request has failed.", _SECONDS)
    retry_wait: float = _flag(1.0, "Longest first wait in seconds; each doubles it.", _SECONDS)
    give_up_after: float = _flag(
        600.0, "Seconds without any answer after which the run ends with exit code 75.", _SECONDS
    )
    min_free_gb: float = _flag(2.0, "Free disk space in GB at which the run stops.", (0, 1e9))
    shard: str | None = _flag(None, "Part (default: that of SLURM's array task).", metavar="I/N")
    indices_file: str | None = _flag(None, "Numbers of the only places to collect, no spares.")
    log_freq: int = _flag(100, "Places between two lines of a log; one a minute.", (1, 1e9))
    debug: bool = _flag(False, "Print every failed request.", **_ON)
    project: str | None = _flag(None, "Google Cloud project (default: EARTHENGINE_PROJECT).")
    service_account_key: str | None = _flag(
        None, "JSON file with the key (default: file or text in EARTHENGINE_SERVICE_ACCOUNT_KEY)."
    )
    ee_url: str = _flag(HIGH_VOLUME, "Endpoint; one on loopback needs no credentials.")


DEFAULTS = Settings()
# The choices of the original, as far as flags give them.
PAPER = {
    **{"land_mask": False, "cloud_score": "none", "clear_fraction": 0.0},
    **{"scene_choice": "newest", "compress": "jpeg"},
}


def spelt(value: Any) -> str:
    """Spell a value as on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(spelt, value))
    return f"{value:g}" if isinstance(value, float) else quoted(str(value))


def check_values(declared: type[Settings | Fetching], values: Mapping[str, Any]) -> None:
    """Refuse the first value that is of another type, out of its limits or not a choice.

    Args:
        declared: Class that declares the flags.
        values: Value of each of them.
    """
    for one in fields(declared):
        value, allowed, kind = values[one.name], one.metadata["allowed"], type(one.default)
        is_good, rule = type(value) is kind or (kind, type(value)) == (float, int), kind.__name__
        if kind is str and allowed:
            is_good, rule = value in allowed, f"one of {', '.join(allowed)}"
        elif allowed:
            rule = f"from {allowed[0]} to {allowed[1]}"
            is_good = is_good and allowed[0] <= value <= allowed[1]
        if not is_good and one.default is not None:
            raise UserError(f"--{one.name} must be {rule}, not {spelt(value)}")


def check_settings(settings: Settings) -> None:
    """Refuse the first value that cannot work, or does not go with another."""
    check_values(Settings, vars(settings))
    check_bands(settings.bands)
    _check_area(settings)
    _check_dates(settings)
    if not settings.collection.isprintable() or not settings.collection:
        raise UserError(f"--collection must be a name, not {settings.collection!a}")
    is_address = settings.stac_url.startswith(("http://", "https://"))
    if (settings.source == "stac" and not is_address) or set("@?") & set(settings.stac_url):
        raise UserError(
            "--stac_url must begin with http:// or https://, without a password or a query, which "
            "the plan would record: only open catalogues are supported"
        )
    missing = [band for band in RGB_BANDS if band not in settings.bands]
    if settings.preview and missing:
        raise UserError(f"--preview shows {missing[0]}, which --bands leaves out: add it")
    if settings.dtype == "uint16" and (settings.compress, settings.format) != ("deflate", "folder"):
        raise UserError("--compress jpeg and --format packed hold 8 bits: give --dtype uint8")


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
    if (settings.sampler == "bounded") != (settings.bounds is not None):
        raise UserError("--sampler bounded and --bounds W S E N need each other: give both or none")
    west, south, east, north = settings.bounds or (-180, -90, 180, 90)
    if not (-90 <= south < north <= 90 and -180 <= west <= 180 >= east >= -180 and west != east):
        raise UserError(
            f"--bounds {spelt(settings.bounds)} is not an area: give west, south, east, north in "
            "degrees, south below north"
        )


def _check_dates(settings: Settings) -> None:
    windows = settings.interval_days * (settings.num_dates - 1) + settings.window_days
    span = windows + settings.max_shift_days + NEWEST_DAYS
    try:
        if (date.fromisoformat(settings.reference_date) - _LAUNCH).days >= span:
            return
    except ValueError:
        pass
    raise UserError(
        f"--reference_date must be a day such as 2021-06-30, {span} days (by which the windows go "
        f"back) or more after the launch of Sentinel-2 on {_LAUNCH}, not "
        f"{spelt(settings.reference_date)}: give another, or lower --num_dates, --interval_days or "
        "--max_shift_days"
    )
