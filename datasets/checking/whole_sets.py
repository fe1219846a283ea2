"""Check all of a data set, and compare its parts: duplicates, and leaks from split to split."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from datasets.checking.problems import DAMAGED, DUPLICATE, LEAK, Problem, Report, Tally
from utils.errors import UserError
from utils.pools import in_processes
from utils.progress import progress

_CHUNK = 16  # places, patches or pictures that a process checks at a time
_NAMED = 1000  # places, patches or pictures that are read again to name duplicates


class SetCheck(Protocol):
    """What a wing knows about its data; see ``SecoCheck``."""

    problems: list[Problem]

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> Mapping[str, str]: ...
    def check(self, index: int) -> Report: ...


def check_units(check: SetCheck, tally: Tally, num_workers: int) -> None:
    """Check every place, patch or picture, and look for duplicates and leaks between them.

    Args:
        check: The data set.
        tally: What was found in it so far, to which all problems are added.
        num_workers: Processes that read; 0 uses this one.
    """
    contents, units, places = array("Q"), array("L"), array("Q")
    chunks = [
        range(start, min(start + _CHUNK, len(check.names)))
        for start in range(0, len(check.names), _CHUNK)
    ]
    reports = in_processes(partial(_check_some, check), chunks, num_workers)
    with progress(desc="verifying", unit=" files", unit_scale=True) as bar:
        for chunk, found in zip(chunks, reports, strict=True):
            if not bar.total and sum(report.num_files for report in found):
                bar.total = sum(report.num_files for report in found) * len(chunks)
            for unit, report in zip(chunk, found, strict=True):
                tally.add(report.problems)
                tally.add_notes(report.notes)
                tally.num_files += report.num_files
                bar.update(report.num_files)
                contents.extend(report.contents.values())
                units.extend([unit] * len(report.contents))
                places.append(report.place)
        bar.total = bar.n
    tally.add(list(_duplicates(check, contents, units)))
    tally.add(list(_shared_places(check, places)))


def _check_some(check: SetCheck, units: range) -> list[Report]:
    reports = []
    for unit in units:
        try:
            reports.append(check.check(unit))
        except (UserError, OSError) as error:  # two files of a band, an encrypted member, ...
            reports.append(Report([Problem(DAMAGED, check.names[unit], str(error))]))
    return reports


def _duplicates(check: SetCheck, contents: array[int], units: array[int]) -> Iterator[Problem]:
    """Yield the files whose pixels occur earlier, and those that leak so from split to split."""
    hashes, of_unit = np.array(contents, np.uint64), np.array(units, np.int64)
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    repeated = set(hashes[order][again].tolist())
    seen: dict[int, tuple[int, str]] = {}
    leaks = set()
    where = np.unique(of_unit[np.isin(hashes, hashes[order][again])])
    for unit in where[:_NAMED].tolist():
        for name, content in check.check(unit).contents.items():
            if content not in repeated:
                continue
            other, first = seen.setdefault(content, (unit, name))
            if first == name:
                continue
            yield Problem(DUPLICATE, name, f"has the pixels of {first}")
            pair = check.names[unit], check.names[other]
            splits = [check.splits.get(each) for each in pair]
            if pair not in leaks and None not in splits and splits[0] != splits[1]:
                leaks.add(pair)
                yield Problem(LEAK, pair[0], f"{splits[0]}, has pixels of {pair[1]}, {splits[1]}")


def _shared_places(check: SetCheck, places: array[int]) -> Iterator[Problem]:
    """Yield what has the georeference of something in another split."""
    seen: dict[int, str] = {}
    for name, place in zip(check.names, places, strict=True):
        if place:
            other = seen.setdefault(place, name)
            splits = [check.splits.get(name), check.splits.get(other)]
            if None not in splits and splits[0] != splits[1]:
                yield Problem(LEAK, name, f"{splits[0]}, is of the place of {other}, {splits[1]}")
