"""The plan of a collection: its settings and places, made once and then only read."""

import hashlib
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np

from datasets.collect.cities import ATTRIBUTION, read_city_table
from datasets.collect.journal import discard_journals, read_journals
from datasets.collect.places import (
    check_lattice,
    check_matched,
    places_from_csv,
    places_to_csv,
    read_match_file,
)
from datasets.collect.sampling import (
    Places,
    Sampler,
    bounded,
    gaussian,
    land_mask,
    sample_places,
    windows,
)
from datasets.collect.scenes import PatchGrid, Place
from datasets.collect.settings import (
    PLAN_NAME,
    Settings,
    amended,
    check_settings,
    differing,
    settings_from_json,
    spelt,
)
from utils.errors import UserError, listed, quoted
from utils.files import check_regular, written_whole
from utils.locks import locked

PLACES_NAME, LOCK_NAME = "places.csv", "plan.lock"
_FORMAT = "seco plan 1"
_DATA = re.compile(r"\d+|manifest\.json")  # places, and the manifest of a packed store
_STRANGERS = re.compile(rf"{_DATA.pattern}|journal.*\.jsonl")  # of collections without a plan


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
        """Build a place, a spare from ``num_places`` on."""
        if not 0 <= number < len(self.places):
            raise IndexError(number)
        lat, lng, epsg, left, top, shift = (x[number].item() for x in vars(self.places).values())
        settings = self.settings
        return Place(
            number,
            lat,
            lng,
            PatchGrid(epsg, left, top, settings.patch_px),
            windows(
                self._reference,
                shift,
                num_dates=settings.num_dates,
                interval_days=settings.interval_days,
                window_days=settings.window_days,
            ),
        )


def make_plan(settings: Settings) -> Plan:
    """Choose the places; with a match file as many as it has, at most ``num_locations``."""
    check_settings(settings)
    if settings.match_file is not None:
        path = Path(settings.match_file)
        places = read_match_file(
            path,
            seed=settings.seed,
            patch_px=settings.patch_px,
            max_shift_days=settings.max_shift_days,
        )
        places = Places(*(column[: settings.num_locations] for column in vars(places).values()))
        check_matched(path, places, settings.patch_px)
        settings = replace(settings, num_locations=len(places))
    else:
        sampler = _sampler(settings)
        places = sample_places(
            settings.seed,
            settings.num_locations + round(settings.spares * settings.num_locations),
            sampler,
            patch_px=settings.patch_px,
            max_shift_days=settings.max_shift_days,
            is_land=land_mask() if settings.land_mask else None,
        )
    return Plan(settings, places, hashlib.sha256(places_to_csv(places)).hexdigest())


def _sampler(settings: Settings) -> Sampler:
    if settings.sampler == "gaussian":
        return gaussian(read_city_table(settings.cities), settings.std_km)
    return bounded(*(settings.bounds or (-180, -90, 180, 90)))


def write_plan(save_path: Path, plan: Plan) -> None:
    """Write the files of a plan, plan.json last: if it exists, the plan is complete."""
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
    """Read the plan of a collection."""
    path, places_path = save_path / PLAN_NAME, save_path / PLACES_NAME
    try:
        check_regular(path)
        check_regular(places_path)
        record, places = json.loads(path.read_bytes()), places_path.read_bytes()
        if record["format"] != _FORMAT:
            raise ValueError(f"its format is {record['format']}")
        settings = settings_from_json(record["settings"])
        digest = record["places_sha256"]
    except FileNotFoundError as error:
        raise UserError(
            f"{save_path} has no {Path(error.filename).name}: name the --save_path of a "
            "collection, or begin one with --plan"
        ) from error
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}: check it") from error
    except UserError as error:
        raise UserError(f"{path} is damaged, {error}: restore the one that was written") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not the plan of a collection, {quoted(str(error))}: restore the one that "
            "was written"
        ) from error
    if hashlib.sha256(places).hexdigest() != digest:
        raise UserError(
            f"{places_path} is not that of {PLAN_NAME}: restore the one that was written"
        )
    try:
        table = places_from_csv(places)
        if len(table) < settings.num_locations:
            raise ValueError(f"{len(table)} places")
    except ValueError as error:
        raise UserError(
            f"{places_path} has no places for {PLAN_NAME}, {quoted(str(error))}: restore the one "
            "that was written"
        ) from error
    check_lattice(places_path, table, settings.bands)
    return Plan(settings, table, digest)


def open_plan(save_path: Path, settings: Settings, given: set[str]) -> Plan:
    """Read the plan of a collection; make it if there is none, or if it is another and unused.

    Shards that start together make it once.

    Args:
        save_path: Folder of the collection; it is created.
        settings: What the flags say; without a reference date it is today in UTC.
        given: Names of those that were given. They have to be those of a plan by which places were
            collected; one by which none were is replaced. The plan decides the others.
    """
    save_path.mkdir(parents=True, exist_ok=True)
    with locked(save_path / LOCK_NAME):
        if not (save_path / PLAN_NAME).exists():
            _check_fresh(save_path)
            plan = _new_plan(settings, given)
        else:
            old = read_plan(save_path)
            changed = differing(old.settings, settings, given)
            if not changed:
                return old
            notice = _check_unused(save_path, old, settings, changed)
            plan = _new_plan(amended(old.settings, settings, given), given)
            discard_journals(save_path)
            (save_path / PLAN_NAME).unlink()  # a kill before the new one is whole leaves none
            print(notice, file=sys.stderr)
        write_plan(save_path, plan)
        return plan


def _new_plan(settings: Settings, given: set[str]) -> Plan:
    today = datetime.now(UTC).date().isoformat()
    settings = replace(settings, reference_date=settings.reference_date or today)
    plan = make_plan(settings)
    if "num_locations" in given and plan.num_places < settings.num_locations:
        raise UserError(
            f"--match_file {settings.match_file} has {plan.num_places} places: lower "
            f"--num_locations {settings.num_locations}, or leave it out"
        )
    if settings.reference_date > today:
        print(f"--reference_date {settings.reference_date} is in the future", file=sys.stderr)
    return plan


def _check_unused(save_path: Path, plan: Plan, settings: Settings, changed: Sequence[str]) -> str:
    """Return a notice that the plan is replaced; refuse it if places were collected by it."""
    name = changed[0]
    before, now = spelt(getattr(plan.settings, name)), spelt(getattr(settings, name))
    has_data = any(_DATA.fullmatch(path.name) for path in save_path.iterdir())
    records = read_journals(save_path, plan.hash).values()
    if has_data or any(record.outcome == "done" for record in records):
        raise UserError(
            f"--{name} is {before} in the plan of {save_path}, not {now}: leave it out to resume, "
            "or choose another --save_path"
        )
    others = f", and {listed([f'--{other}' for other in changed[1:]])}" if changed[1:] else ""
    return (
        f"--{name} is now {now}, not {before}{others}: the plan of {save_path} is replaced, since "
        "nothing was collected by it"
    )


def _check_fresh(save_path: Path) -> None:
    strangers = sorted(x.name for x in save_path.iterdir() if _STRANGERS.fullmatch(x.name))
    if strangers:
        raise UserError(
            f"{save_path} has no {PLAN_NAME}, but already {listed(strangers)}: choose another "
            "--save_path"
        )
