"""Settings and a plan of places in a row; a place with two scenes, and its written files."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from datasets.bands import RESOLUTION_M
from datasets.collect.journal import Record
from datasets.collect.plan import Plan
from datasets.collect.sampling import Places
from datasets.collect.scenes import Array, PatchGrid, Place, Scene
from datasets.collect.settings import Settings
from datasets.collect.writer import Draft, PlaceWriter

SETTINGS = Settings(patch_px=12)
SMALL = Settings(
    num_locations=60,
    sampler="uniform",
    land_mask=False,
    patch_px=12,
    spares=0.5,
    reference_date="2021-06-30",
)
PLACE = Place(7, -33.25, 151.5, PatchGrid(32756, 340020, 6320020, 12), ())
OLD, NEW = "20200101T101010_20200101T101011_T56HLH", "20200401T101010_20200401T101011_T56HLH"


def stub_plan(num_places: int, num_spares: int, left: Any = None, **changes: Any) -> Plan:
    """Places of 12 pixels in a row, in one zone."""
    zeros = np.zeros(num_places + num_spares, np.int32)
    left = 300_000 + 120 * np.arange(len(zeros)) if left is None else np.array(left)
    places = Places(1.0 * zeros, 1.0 * zeros, zeros + 32631, left, zeros + 60_000, zeros)
    settings = replace(SETTINGS, num_locations=num_places, reference_date="2021-06-30", **changes)
    return Plan(settings, places, "")


def scene(name: str = OLD) -> Scene:
    start = datetime.strptime(name[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return Scene(name, start, 1.5, 0.97, 1.0, "05.09", {"MGRS_TILE": "56HLH"}, key=object())


def images(seed: int = 0, size_px: int = 12) -> dict[str, Array]:
    """Random digital numbers of all bands, up to saturated ones."""
    rng = np.random.default_rng(seed)
    sides = {band: 10 * size_px // size for band, size in RESOLUTION_M.items()}
    return {b: rng.integers(1, 20_000, (n, n)).astype(np.uint16) for b, n in sides.items()}


def writer_in(root: Path, settings: Settings = SETTINGS) -> PlaceWriter:
    root.mkdir(exist_ok=True)
    return PlaceWriter(root, settings, {"collection": "made up"}, (0, 1))


def write(writer: PlaceWriter, place: Place = PLACE, seed: int = 0) -> Record:
    draft = Draft(writer, place)
    draft.add(scene(NEW), images(seed))
    draft.add(scene(OLD), images(seed + 1))
    return draft.finish()
