"""Reads a whole collection again: is everything there, whole, and only once?"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from datasets.bands import RESOLUTION_M
from datasets.collect_journal import Record, forget, read_journals
from datasets.collect_plan import Plan
from datasets.collect_writer import METADATA_NAME, place_hash
from utils.errors import quoted
from utils.progress import progress
from utils.report import write_json

REPORT_NAME = "verify.json"
_SHOWN = 20  # findings that are printed


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

    Places that are damaged are taken out of the journals: the next fetch collects them again.

    Returns:
        Whether all is well: complete, and nothing found.
    """
    records = read_journals(save_path, plan.hash)
    done = [record for record in records.values() if record.outcome == "done"]
    findings = [*_strangers(save_path, done), *_repeats(plan, done)]
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
            same = f"has the same pixels as {', '.join(places[1:4])}"
            findings.append(Finding(places[0], same, is_damage=False))
    forget(save_path, {int(found.place) for found in findings if found.is_damage})
    missing = plan.num_places - len(done)
    _report(save_path, plan, findings, len(done))
    return not findings and missing <= 0


def check_place(save_path: Path, plan: Plan, record: Record) -> tuple[list[Finding], str]:
    """Read all files of a place.

    Returns:
        What is wrong, and a hash of the pixels of all its scenes.
    """
    folder = save_path / f"{record.place:06d}"
    try:
        return _check_files(folder, plan, record)
    except OSError as error:  # of the disk, or of the network: its files may be good
        what = f"cannot be read ({error.strerror})"
        return [Finding(folder.name, what, is_damage=False)], ""


def _check_files(folder: Path, plan: Plan, record: Record) -> tuple[list[Finding], str]:
    found: list[Finding] = []
    hashes: dict[str, str] = {}
    pixels = hashlib.sha256()
    expected = {*(f"{band}.tif" for band in plan.settings.bands), METADATA_NAME}
    scenes = _names(folder, Path.is_dir) if folder.is_dir() else set()
    if scenes != set(record.scenes):
        return [Finding(folder.name, _difference(scenes, set(record.scenes)))], ""
    for scene in sorted(scenes):
        names = _names(folder / scene, Path.is_file)
        if names != expected:
            return [Finding(folder.name, f"{scene}: {_difference(names, expected)}")], ""
        for name in sorted(names):
            content = (folder / scene / name).read_bytes()
            hashes[f"{scene}/{name}"] = hashlib.sha256(content).hexdigest()
            wrong = None
            if name == METADATA_NAME:
                wrong = _check_metadata(content, scene)
            else:
                wrong = _check_band(folder / scene / name, plan, record.place)
                pixels.update(content)
            if wrong is not None:
                found.append(Finding(folder.name, f"{scene}/{name} {wrong}"))
    if not found and place_hash(hashes) != record.sha256:
        found.append(Finding(folder.name, f"{_culprit(folder, hashes)} is not what was written"))
    return found, pixels.hexdigest()


def _names(folder: Path, is_expected: Callable[[Path], bool]) -> set[str]:
    """List a folder; a pipe, which would be read for ever, and its like get a slash."""
    return {path.name if is_expected(path) else f"{path.name}/" for path in folder.iterdir()}


def _check_band(path: Path, plan: Plan, number: int) -> str | None:
    """Open a GeoTIFF, and return what is wrong with it."""
    grid, resolution_m = plan.place(number).grid, RESOLUTION_M[path.stem]
    side = 10 * grid.size_px // resolution_m
    try:
        with rasterio.open(path, driver="GTiff") as file:
            shape, dtype = (file.count, *file.shape), file.dtypes[0]
            transform, crs = tuple(file.transform)[:6], file.crs
            is_empty = not file.read(1).any()
    except (RasterioError, ValueError) as error:
        return f"cannot be read ({quoted(str(error))})"
    if shape != (1, side, side) or dtype != plan.settings.dtype:
        return f"is {shape} {dtype} instead of {(1, side, side)} {plan.settings.dtype}"
    expected = (resolution_m, 0, grid.left, 0, -resolution_m, grid.top)
    if transform != expected or crs != CRS.from_epsg(grid.epsg):
        return "lies elsewhere than its place in the plan"
    return "holds only zeros" if is_empty and resolution_m == 10 else None


def _check_metadata(content: bytes, scene: str) -> str | None:
    try:
        return None if json.loads(content)["scene"] == scene else "is of another scene"
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
    return METADATA_NAME


def _difference(found: set[str], expected: set[str]) -> str:
    lacks, more = sorted(expected - found), sorted(found - expected)
    words = [f"lacks {quoted(lacks[0])}"] if lacks else []
    words += [f"has {quoted(more[0])}, which was not written"] if more else []
    return " and ".join(words)


def _strangers(save_path: Path, done: Iterable[Record]) -> Iterator[Finding]:
    """Find folders of places that no journal knows."""
    known = {f"{record.place:06d}" for record in done}
    for path in sorted(save_path.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in known:
            yield Finding(quoted(path.name), "is in no journal", is_damage=False)


def _repeats(plan: Plan, done: Iterable[Record]) -> Iterator[Finding]:
    """Find pixels of the Earth that are there twice, and scenes that are twice at a place."""
    seen: dict[Any, int] = {}
    for record in done:
        times = Counter(scene.partition("_")[0] for scene in record.scenes)
        name = f"{record.place:06d}"
        for time, count in times.items():
            if count > 1:
                yield Finding(name, f"has {count} scenes of {time}", is_damage=False)
        grid = plan.place(record.place).grid
        other = seen.setdefault((grid.epsg, grid.left, grid.top), record.place)
        if other != record.place:
            yield Finding(name, f"lies where {other:06d} does", is_damage=False)


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
