"""Settings of a collection that cannot work are refused before anything is written."""

from dataclasses import fields
from datetime import date
from typing import Any

from datasets.bands import RGB_BANDS, check_bands
from datasets.collect.settings import Settings
from utils.errors import UserError, quoted

_LAUNCH = date(2015, 6, 23)  # of the first Sentinel-2
_MOST_PLACES = 5_000_000  # with their spares
# A request of Earth Engine has at most 48 MiB, counted as 3 bytes per pixel and band: 1182 squared.
_MOST_PX = 1182

# Inclusive.
_RANGES: dict[str, tuple[float, float]] = {
    "num_locations": (1, _MOST_PLACES),
    "seed": (0, 2**32),
    "std_km": (0.001, 5000),
    "patch_px": (6, _MOST_PX),
    "spares": (0, 1000),
    "num_dates": (1, 1000),
    "interval_days": (1, 3650),
    "window_days": (1, 3650),
    "max_shift_days": (0, 3650),
    "cloud_pct": (0.001, 100),
    "clear_threshold": (0, 1),
    "clear_fraction": (0, 1),
}
_CHOICES = {
    "sampler": ("gaussian", "uniform", "bounded"),
    "source": ("earthengine", "stac"),
    "cloud_score": ("cs_cdf", "cs", "none"),
    "scene_choice": ("least_cloudy", "nearest", "newest"),
    "dtype": ("uint8", "uint16"),
    "compress": ("deflate", "jpeg"),
    "format": ("folder", "packed"),
}


def check_settings(settings: Settings) -> None:
    """Refuse the first value that cannot work, or does not go with another."""
    for name, (low, high) in _RANGES.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise UserError(f"--{name} must be from {low} to {high}, not {value}")
    for name, choices in _CHOICES.items():
        value = getattr(settings, name)
        if value not in choices:
            raise UserError(f"--{name} must be one of {', '.join(choices)}, not {quoted(value)}")
    for name in ("cities", "collection"):
        value = getattr(settings, name)
        if not value or not value.isprintable():
            raise UserError(f"--{name} must be a name, not {value!a}")
    if settings.patch_px % 6:
        raise UserError(
            f"--patch_px must be a multiple of 6, for bands of 60 m, not {settings.patch_px}"
        )
    if settings.num_locations * (1 + settings.spares) > _MOST_PLACES:
        raise UserError(
            f"--num_locations {settings.num_locations} with --spares {settings.spares:g} are more "
            f"than {_MOST_PLACES} places: lower one of them"
        )
    _check_bounds(settings)
    _check_dates(settings)
    _check_output(settings)
    if settings.source == "stac" and not settings.stac_url.startswith(("http://", "https://")):
        raise UserError(
            f"--stac_url must begin with http:// or https://, not be {quoted(settings.stac_url)!a}"
        )
    if set("@?") & set(settings.stac_url):
        raise UserError(
            "--stac_url holds a password or a query, which the plan would record: take it out, and "
            "only open catalogues are supported"
        )


def _check_bounds(settings: Settings) -> None:
    bounds = settings.bounds
    if (settings.sampler == "bounded") != (bounds is not None):
        raise UserError("--sampler bounded and --bounds W S E N need each other: give both or none")
    if bounds is None:
        return
    west, south, east, north = bounds
    if not (-90 <= south < north <= 90 and abs(west) <= 180 and abs(east) <= 180 and west != east):
        raise UserError(
            f"--bounds {' '.join(f'{value:g}' for value in bounds)} is no area: give west, south, "
            "east, north in degrees, south below north"
        )


def _check_dates(settings: Settings) -> None:
    try:
        reference = date.fromisoformat(settings.reference_date)
    except ValueError as error:
        raise UserError(
            f"--reference_date must be a day such as 2021-06-30, not "
            f"{quoted(settings.reference_date)!a}"
        ) from error
    span = (
        settings.interval_days * (settings.num_dates - 1)
        + settings.window_days
        + settings.max_shift_days
        + 28
    )
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
    if not isinstance(record, dict) or record.keys() != {field.name for field in fields(Settings)}:
        raise ValueError("its settings have other names")
    values = dict(record)
    for name, default in vars(Settings()).items():
        value = values[name]
        if name == "bounds" and value is not None:
            is_good = isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
            values[name] = tuple(value) if is_good else value
        elif name in ("bounds", "match_file"):
            is_good = value is None or (name == "match_file" and isinstance(value, str))
        elif name == "bands":
            is_good = isinstance(value, list) and all(isinstance(band, str) for band in value)
            values[name] = tuple(value) if is_good else value
        elif isinstance(default, float):
            is_good = _is_number(value)
        else:
            is_good = type(value) is type(default)
        if not is_good:
            raise ValueError(f"its {name} is of another type")
    settings = Settings(**values)
    check_settings(settings)
    return settings


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # JSON has any number of digits
