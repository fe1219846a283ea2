"""Check all files of a collection: present, intact, and no place or scene twice."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from datasets.bands import RESOLUTION_M
from datasets.collect.journal import Record, forget, read_journals
from datasets.collect.plan import Plan
from datasets.collect.scenes import Array
from datasets.collect.utm import utm_crs
from datasets.collect.writer import METADATA_NAME, place_hash
from utils.errors import UserError, quoted
from utils.files import is_hidden
from utils.progress import progress
from utils.report import write_json

REPORT_NAME = "verify.json"
_SHOWN = 20  # findings that are printed
UNWANTED = ": if that is wrong, delete this folder and --verify again, which has it collected again"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        place: Name of its folder.
        what: In words.
        is_damage: Its files are not those that were written: it has to be collected again.
    """

    place: str
    what: str
    is_damage: bool = True


def verify(save_path: Path, plan: Plan, num_workers: int) -> bool:
    """Check all places that the journals call done; print and write what is wrong.

    Places that are damaged are removed from the journals: the next fetch collects them again.

    Returns:
        Whether all is well: complete, and nothing found.
    """
    records = read_journals(save_path, plan.hash)
    noted = [record for record in records.values() if record.outcome == "done"]
    done = [record for record in noted if record.place < len(plan.places)]
    findings = [
        Finding(f"{record.place:06d}", "is in a journal, but not in the plan")
        for record in noted
        if record.place >= len(plan.places)
    ]
    findings += [*_strangers(save_path, done), *_repeats(plan, done)]
    contents: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(num_workers) as pool:
        checked = pool.map(lambda record: check_place(save_path, plan, record), done)
        for record, (found, pixels) in zip(
            done, progress(checked, total=len(done), desc="verifying", unit=" places"), strict=True
        ):
            findings += found
            contents[pixels].append(f"{record.place:06d}")
    for pixels, places in contents.items():
        if pixels and len(places) > 1:
            same = f"has the same pixels as {', '.join(places[1:4])}{UNWANTED}"
            findings.append(Finding(places[0], same, is_damage=False))
    _report(save_path, plan, findings, len(done))
    forget(save_path, {int(found.place) for found in findings if found.is_damage})
    return not findings and len(done) >= plan.num_places


def check_place(save_path: Path, plan: Plan, record: Record) -> tuple[list[Finding], str]:
    """Read all files of a place.

    Returns:
        What is wrong, and a hash of the pixels of all its scenes.
    """
    folder = save_path / f"{record.place:06d}"
    num_scenes, wanted = len(set(record.scenes)), plan.settings.num_dates
    if num_scenes != wanted:
        return [Finding(folder.name, f"has {num_scenes} scenes instead of {wanted}")], ""
    scenes = _names_in(folder, Path.is_dir)
    if scenes != set(record.scenes):
        return [Finding(folder.name, _difference(scenes, set(record.scenes)))], ""
    expected = {*(f"{band}.tif" for band in plan.settings.bands), METADATA_NAME}
    found: list[Finding] = []
    hashes: dict[str, str] = {}
    pixels = hashlib.sha256()
    for scene in sorted(scenes):
        names = _names_in(folder / scene, Path.is_file)
        if names != expected:
            return [Finding(folder.name, f"{scene}: {_difference(names, expected)}")], ""
        for path in sorted(folder / scene / name for name in names):
            file = f"{scene}/{path.name}"
            hashes[file] = hashlib.sha256(_content(path)).hexdigest()
            if path.name == METADATA_NAME:
                wrong = _check_metadata(path)
            else:
                image, wrong = _read_band(path, plan, record.place)
                pixels.update(image.tobytes())
                if wrong is None and RESOLUTION_M[path.stem] == 10 and not image.any():
                    zeros = f"{file} holds only zeros, as clear water may{UNWANTED}"
                    found.append(Finding(folder.name, zeros, is_damage=False))
            if wrong is not None:
                found.append(Finding(folder.name, f"{file} {wrong}"))
    is_damaged = any(finding.is_damage for finding in found)
    if not is_damaged and place_hash(hashes) != record.sha256:
        found.append(Finding(folder.name, f"{_culprit(folder, hashes)} is not what was written"))
    return found, pixels.hexdigest()


def _names_in(folder: Path, is_expected: Callable[[Path], bool]) -> set[str]:
    """List a folder without hidden files; mark entries of another type with a trailing slash."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return {
        path.name if is_expected(path) else f"{path.name}/"
        for path in paths
        if not is_hidden(path.name)
    }


def _content(path: Path) -> bytes:
    """Read a file; one that cannot be read may be whole, so its place is not forgotten."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): repair that, or delete it to collect its "
            "place again"
        ) from error


def _read_band(path: Path, plan: Plan, number: int) -> tuple[Array, str | None]:
    """Read a GeoTIFF, and return what is wrong with it."""
    grid, resolution_m = plan.place(number).grid, RESOLUTION_M[path.stem]
    side = 10 * grid.size_px // resolution_m
    try:
        with rasterio.open(path, driver="GTiff") as file:
            shape, dtype = (file.count, *file.shape), file.dtypes[0]
            transform, crs = tuple(file.transform)[:6], file.crs
            image: Array = file.read(1)
    except (RasterioError, ValueError) as error:
        return np.zeros(0), f"cannot be read ({quoted(str(error))})"
    if shape != (1, side, side) or dtype != plan.settings.dtype:
        return image, f"is {shape} {dtype} instead of {(1, side, side)} {plan.settings.dtype}"
    expected = (resolution_m, 0, grid.left, 0, -resolution_m, grid.top)
    if transform != expected or crs != utm_crs(grid.epsg):
        return image, "is not at its place in the plan"
    return image, None


def _check_metadata(path: Path) -> str | None:
    try:
        is_of_scene = json.loads(_content(path))["scene"] == path.parent.name
        return None if is_of_scene else "is of another scene"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "cannot be read"


def _culprit(folder: Path, hashes: dict[str, str]) -> str:
    """Name the file that differs from the hash in its metadata."""
    for name, digest in hashes.items():
        scene, _, file = name.partition("/")
        if file == METADATA_NAME:
            continue
        try:
            files = json.loads((folder / scene / METADATA_NAME).read_bytes())["files"]
            recorded = files[file]["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return f"{scene}/{METADATA_NAME}"
        if recorded != digest:
            return name
    return f"a {METADATA_NAME}"


def _difference(found: set[str], expected: set[str]) -> str:
    lacks, more = sorted(expected - found), sorted(found - expected)
    words = [f"lacks {quoted(lacks[0])}"] if lacks else []
    words += [f"has {quoted(more[0])}, which was not written"] if more else []
    return " and ".join(words)


def _strangers(save_path: Path, done: Iterable[Record]) -> Iterator[Finding]:
    """Find folders of places that no journal knows."""
    known = {f"{record.place:06d}" for record in done}
    for path in sorted(save_path.iterdir()):
        if path.is_dir() and not is_hidden(path.name) and path.name not in known:
            what = "is not in any journal: move it out of the collection"
            yield Finding(quoted(path.name), what, is_damage=False)


def _repeats(plan: Plan, done: Iterable[Record]) -> Iterator[Finding]:
    """Find two places at one position, and scenes that occur twice at a place."""
    seen: dict[Any, int] = {}
    for record in done:
        times = Counter(scene.partition("_")[0] for scene in record.scenes)
        name = f"{record.place:06d}"
        for time, count in times.items():
            if count > 1:
                what = f"has {count} scenes of {time}{UNWANTED}"
                yield Finding(name, what, is_damage=False)
        grid = plan.place(record.place).grid
        other = seen.setdefault((grid.epsg, grid.left, grid.top), record.place)
        if other != record.place:
            yield Finding(name, f"is at the position of {other:06d}{UNWANTED}", is_damage=False)


def _report(save_path: Path, plan: Plan, findings: list[Finding], num_done: int) -> None:
    summary = {
        "places_wanted": plan.num_places,
        "places_done": num_done,
        "findings": [vars(finding) for finding in findings],
    }
    write_json(save_path / REPORT_NAME, summary)
    for finding in findings[:_SHOWN]:
        print(f"{finding.place} {finding.what}")
    if len(findings) > _SHOWN:
        print(f"... and {len(findings) - _SHOWN} more in {REPORT_NAME}")
    damaged = len({finding.place for finding in findings if finding.is_damage})
    again = ": the same command without --verify collects them again" if damaged else ""
    print(f"{num_done} of {plan.num_places} places, {damaged} damaged{again}")
