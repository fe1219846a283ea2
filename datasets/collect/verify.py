"""Check all files of a collection: present, as they were written, and no place or scene twice."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.collect.journal import Record, forget, read_journals
from datasets.collect.plan import Plan
from datasets.collect.writer import METADATA_NAME, place_hash
from utils.errors import UserError, quoted
from utils.files import is_hidden, read_file
from utils.progress import progress
from utils.report import write_json

REPORT_NAME = "verify.json"
_SHOWN = 20  # findings that are printed
UNWANTED = ": if that is wrong, delete this folder and --verify again, which has it collected again"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a place."""

    place: str  # name of its folder
    what: str  # in words
    is_damage: bool = True  # it has to be collected again


def verify(save_path: Path, plan: Plan, num_workers: int) -> bool:
    """Check all places that are done; print and write what is wrong; return whether all is well.

    Places that are damaged are removed from the journals: the next fetch collects them again.

    Args:
        save_path: Folder of the collection.
        plan: Its plan.
        num_workers: Places that are read at the same time.
    """
    records = read_journals(save_path, plan.hash).values()
    done = [record for record in records if record.outcome == "done"]
    findings = list(_oddities(save_path, plan, done))
    with ThreadPoolExecutor(num_workers) as pool:
        checked = pool.map(lambda record: _check_place(save_path, plan, record), done)
        for found in progress(checked, total=len(done), desc="verifying", unit=" places"):
            findings += found
    damaged = {int(found.place) for found in findings if found.is_damage}
    summary = {
        "places_wanted": plan.num_places,
        "places_done": len(done),
        "findings": [vars(finding) for finding in findings],
    }
    write_json(save_path / REPORT_NAME, summary)
    for finding in findings[:_SHOWN]:
        print(f"{finding.place} {finding.what}")
    if len(findings) > _SHOWN:
        print(f"... and {len(findings) - _SHOWN} more in {REPORT_NAME}")
    is_whole = len(done) >= plan.num_places and not damaged
    again = "" if is_whole else ": the same command without --verify collects the others"
    print(f"{len(done)} of {plan.num_places} places, {len(damaged)} damaged{again}")
    forget(save_path, damaged)
    return not findings and len(done) >= plan.num_places


def _check_place(save_path: Path, plan: Plan, record: Record) -> list[Finding]:
    """Read all files of a place; return what is wrong, if anything is."""
    folder = save_path / f"{record.place:06d}"
    names = [*(f"{band}.tif" for band in plan.settings.bands), METADATA_NAME]
    wanted = {f"{scene}/{name}" for scene in record.scenes for name in names}
    if record.place >= len(plan.places):
        words = "is in a journal, but not in the plan"
    elif len(set(record.scenes)) != plan.settings.num_dates:
        words = f"has {len(set(record.scenes))} scenes instead of {plan.settings.num_dates}"
    elif (found := _entries(folder)) != wanted:
        lacks, more = sorted(wanted - found), sorted(found - wanted)
        words = " and ".join(
            [f"lacks {quoted(name)}" for name in lacks[:1]]
            + [f"has {quoted(name)}, which was not written" for name in more[:1]]
        )
    else:
        if place_hash({name: _hash(folder / name) for name in sorted(wanted)}) == record.sha256:
            return []
        words = "has other files than those that were written"
    return [Finding(folder.name, words)]


def _entries(folder: Path) -> set[str]:
    """List the files of a place, without hidden ones; mark what is not a file with a slash."""
    found = set()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        inner = Path(parent).relative_to(folder)
        if not folders and not files:
            found.add(f"{inner.as_posix()}/")
        for path in (Path(parent, name) for name in files if not is_hidden(name)):
            found.add(f"{(inner / path.name).as_posix()}{'' if path.is_file() else '/'}")
    return found


def _hash(path: Path) -> str:
    """Hash a file; one that cannot be read may be whole, so its place is not forgotten."""
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): repair that, or delete it to collect its "
            "place again"
        ) from error


def _oddities(save_path: Path, plan: Plan, done: Sequence[Record]) -> Iterator[Finding]:
    """Find folders that no journal knows, and positions and scenes that occur twice."""
    known = {f"{record.place:06d}" for record in done}
    for path in sorted(save_path.iterdir()):
        if path.is_dir() and not is_hidden(path.name) and path.name not in known:
            what = "is not in any journal: move it out of the collection"
            yield Finding(quoted(path.name), what, is_damage=False)
    seen: dict[Any, int] = {}
    for record in done:
        times = Counter(scene.partition("_")[0] for scene in record.scenes)
        words = [f"has {count} scenes of {time}" for time, count in times.items() if count > 1]
        if record.place < len(plan.places):
            other = seen.setdefault(plan.place(record.place).grid, record.place)
            words += [f"is at the position of {other:06d}"] * (other != record.place)
        for what in words:
            yield Finding(f"{record.place:06d}", f"{what}{UNWANTED}", is_damage=False)
