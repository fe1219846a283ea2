"""The plan of a collection: its settings and places, made once and then only read."""

import hashlib
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from datasets.collect.cities import ATTRIBUTION, read_city_table
from datasets.collect.journal import discard_journals, read_journals
from datasets.collect.places import (
    MAX_PLACES_BYTES,
    check_distinct,
    check_lattice,
    places_from_csv,
    places_to_csv,
    read_match_file,
)
from datasets.collect.sampling import Places, bounded, gaussian, joined, land_mask, sample_places
from datasets.collect.scenes import PatchGrid, Place, Window
from datasets.collect.settings import NEWEST_DAYS, PLAN_NAME, Settings, check_settings, spelt
from utils.errors import UserError, listed, os_error_sentence, quoted
from utils.files import read_file, written_whole
from utils.locks import locked

PLACES_NAME, LOCK_NAME = "places.csv", "plan.lock"
_FORMAT = "seco plan 1"
_DATA = re.compile(r"\d+|manifest\.json")  # places, and the manifest of a packed store
_JOURNAL = re.compile(r"journal.*\.jsonl")
# Settings whose default depends on another one, which they follow when it changes.
_FOLLOWERS = {"source": ("collection", "stac_url"), "match_file": ("num_locations",)}


class Plan:
    """Settings and places of a collection.

    Args:
        settings: Settings as recorded, with a reference date.
        places: Requested places, then the spares.
        places_sha256: Digest of the bytes of places.csv.
    """

    def __init__(self, settings: Settings, places: Places, places_sha256: str) -> None:
        self.settings = settings
        self.places = places
        self.places_sha256 = places_sha256
        self._reference = date.fromisoformat(settings.reference_date)

    @property
    def num_places(self) -> int:
        """Number of requested places."""
        return self.settings.num_locations

    @property
    def num_spares(self) -> int:
        """Number of places in reserve, after the requested ones."""
        return len(self.places) - self.num_places

    @property
    def hash(self) -> str:
        """Digest of settings and places: what a journal belongs to."""
        content = json.dumps([asdict(self.settings), self.places_sha256], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def place(self, number: int) -> Place:
        """Build a place, a spare from ``num_places`` on; its newest window comes first."""
        if not 0 <= number < len(self.places):
            raise IndexError(number)
        lat, lng, epsg, left, top, shift = (x[number].item() for x in vars(self.places).values())
        settings, length = self.settings, timedelta(days=self.settings.window_days)
        back = NEWEST_DAYS + shift + settings.window_days // 2
        days = [back + settings.interval_days * step for step in range(settings.num_dates)]
        starts = [self._reference - timedelta(days=one) for one in days]
        windows = tuple(Window(start, start + length) for start in starts)
        return Place(number, lat, lng, PatchGrid(epsg, left, top, settings.patch_px), windows)


def make_plan(settings: Settings) -> Plan:
    """Choose the places; with a match file as many as it has, at most ``num_locations``.

    Of the places.csv of another plan, with its plan.json next to it, spares stay spares.
    """
    check_settings(settings)
    sizes = {"patch_px": settings.patch_px, "max_shift_days": settings.max_shift_days}
    if settings.match_file is not None:
        path = Path(settings.match_file)
        places = read_match_file(path, seed=settings.seed, **sizes)
        is_plan = path.name == PLACES_NAME and path.with_name(PLAN_NAME).exists()
        listed = _parse(path.parent).num_places if is_plan else len(places)
        count = min(listed, settings.num_locations)
        spares = places[listed:][: round(settings.spares * count)]
        places = joined([places[:count], spares])
        check_distinct(path, places)
        settings = replace(settings, num_locations=count)
    else:
        count = settings.num_locations + round(settings.spares * settings.num_locations)
        if settings.sampler == "gaussian":
            sampler = gaussian(read_city_table(settings.cities), settings.std_km)
        else:
            sampler = bounded(*(settings.bounds or (-180, -90, 180, 90)))
        is_land = land_mask() if settings.land_mask else None
        places = sample_places(settings.seed, count, sampler, is_land=is_land, **sizes)
    return Plan(settings, places, hashlib.sha256(places_to_csv(places)).hexdigest())


def write_plan(save_path: Path, plan: Plan) -> None:
    """Write the files of a plan, plan.json last: if it exists, the plan is complete.

    Args:
        save_path: Folder of the collection.
        plan: Plan to write.
    """
    with written_whole(save_path / PLACES_NAME) as partial:
        partial.write_bytes(places_to_csv(plan.places))
    record = {
        "format": _FORMAT,
        "settings": asdict(plan.settings),
        "num_places": plan.num_places,
        "num_spares": plan.num_spares,
        "places_sha256": plan.places_sha256,
        "cities": ATTRIBUTION if plan.settings.cities == "geonames" else plan.settings.cities,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    with written_whole(save_path / PLAN_NAME) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def read_plan(save_path: Path) -> Plan:
    """Read the plan of a collection; anything but the plan that was written is refused."""
    plan = _parse(save_path)
    check_lattice(save_path / PLACES_NAME, plan.places, plan.settings.bands)
    return plan


def _parse(save_path: Path) -> Plan:
    """Read a plan that may be of an earlier version."""
    path, places_path = save_path / PLAN_NAME, save_path / PLACES_NAME
    try:
        content, text = read_file(path), read_file(places_path, MAX_PLACES_BYTES)
        record = json.loads(content)
        if record["format"] != _FORMAT:
            raise ValueError(f"its format is {record['format']}")
        values: dict[str, Any] = record["settings"]
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        settings = Settings(**values | lists)
        check_settings(settings)
        if hashlib.sha256(text).hexdigest() != record["places_sha256"]:
            raise ValueError(f"{PLACES_NAME} is another one")
        places = places_from_csv(text)
        if len(places) < settings.num_locations:
            raise ValueError(f"{PLACES_NAME} has {len(places)} places")
    except FileNotFoundError as error:
        raise UserError(
            f"{save_path} has no {Path(error.filename).name}: name the --save_path of a "
            "collection, or begin one with --plan"
        ) from error
    except OSError as error:
        raise UserError(os_error_sentence(error, error.filename or path)) from error
    except Exception as error:  # a damaged file raises anything
        raise UserError(
            f"{path} is not the plan of a collection ({quoted(str(error), 500)}): restore it and "
            f"{PLACES_NAME} as they were written"
        ) from error
    return Plan(settings, places, record["places_sha256"])


def open_plan(save_path: Path, settings: Settings, given: set[str]) -> Plan:
    """Read the plan of a collection; make it if there is none, or if it is another and unused.

    Shards that start together make it once.

    Args:
        save_path: Folder of the collection; it is created.
        settings: What the flags say; without a reference date it is today in UTC.
        given: Names of those that were given. They have to be those of a plan by which places were
            collected; one by which none were is replaced. The plan decides the others.

    Raises:
        UserError: The folder has other content, or the settings differ from those of its plan.
    """
    save_path.mkdir(parents=True, exist_ok=True)
    with locked(save_path / LOCK_NAME):
        names = sorted(path.name for path in save_path.iterdir())
        data = [name for name in names if _DATA.fullmatch(name)]
        if PLAN_NAME not in names:
            data += filter(_JOURNAL.fullmatch, names)
            if data:
                raise UserError(
                    f"{save_path} has no {PLAN_NAME}, but already {listed(data)}: choose another "
                    "--save_path"
                )
            plan = _new_plan(settings, given)
        else:
            old = read_plan(save_path)
            now = vars(settings)
            changed = [name for name in sorted(given) if now[name] != vars(old.settings)[name]]
            if not changed:
                return old
            plan = _replacement(save_path, old, settings, changed, given, has_data=bool(data))
        write_plan(save_path, plan)
        return plan


def _replacement(
    save_path: Path,
    old: Plan,
    settings: Settings,
    changed: Sequence[str],
    given: set[str],
    *,
    has_data: bool,
) -> Plan:
    """Delete a plan by which nothing was collected, and return the one that replaces it."""
    name, now = changed[0], vars(settings)
    planned, asked = spelt(vars(old.settings)[name]), spelt(now[name])
    records = read_journals(save_path, old.hash).values()
    if has_data or any(record.outcome == "done" for record in records):
        raise UserError(
            f"--{name} is {planned} in the plan of {save_path}, not {asked}: leave it out to "
            "resume, or choose another --save_path"
        )
    names = [*changed, *(name for one in changed for name in _FOLLOWERS.get(one, ()))]
    plan = _new_plan(replace(old.settings, **{name: now[name] for name in names}), given)
    discard_journals(save_path)
    (save_path / PLAN_NAME).unlink()  # a kill before the new one is whole leaves none
    print(
        f"--{name} is now {asked}, not {planned}: the plan of {save_path} is replaced, since "
        "nothing was collected by it",
        file=sys.stderr,
    )
    return plan


def _new_plan(settings: Settings, given: set[str]) -> Plan:
    today = datetime.now(UTC).date().isoformat()
    plan = make_plan(replace(settings, reference_date=settings.reference_date or today))
    if "num_locations" in given and plan.num_places < settings.num_locations:
        raise UserError(
            f"--match_file {settings.match_file} has {plan.num_places} places: lower "
            f"--num_locations {settings.num_locations}, or leave it out"
        )
    if plan.settings.reference_date > today:
        print(f"--reference_date {settings.reference_date} is in the future", file=sys.stderr)
    return plan
