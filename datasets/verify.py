r"""Check a data set before days are spent on it.

python -m datasets.verify data/seco_100k
python -m datasets.verify data/bigearthnet --num_workers 8 --json problems.json
python -m datasets.verify data/oscd --write_checksums oscd.sha256
python -m datasets.verify data/oscd --checksums oscd.sha256

Reads every file of a SeCo folder or zip, packed store, set of LitData chunks, EuroSAT, BigEarthNet
or OSCD. Exit code 0: nothing found; 1: something found; 2: wrong use, or not such a data set.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from utils.cli import run
from utils.cores import available_cores
from utils.errors import UserError, printable, quoted
from utils.files import check_can_write, check_exists
from utils.flags import Parser, check_not_negative

if TYPE_CHECKING:  # flags are parsed without NumPy
    from datasets.problems import Problem, Report, Tally

# Modules that take long to import are imported by the functions that use them.

_CHUNK = 16  # places, patches or pictures that a process checks at a time
_NAMED = 1000  # places, patches or pictures that are read again to name duplicates
_SHOWN = 5  # names of each kind that are printed


class _Check(Protocol):
    """What a wing knows about its data; see ``SecoCheck``."""

    problems: list[Problem]

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> Mapping[str, str]: ...
    def check(self, index: int) -> Report: ...


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__, prog="python -m datasets.verify")
    add = parser.add_argument
    add("data_dir", type=Path, help="Folder or zip of the data set.")
    workers = min(8, available_cores())
    add("--num_workers", type=int, default=workers, help="Processes to use; 0 uses this one.")
    add("--json", type=Path, help="File for all counts and problems.")
    add("--write_checksums", type=Path, help="Write the sha256 of every file, as sha256sum does.")
    add("--checksums", type=Path, help="Only compare every file with such a list.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check a data set, print what was found, and exit with 1 if anything was."""
    args = parse_args(argv)
    check_not_negative(args, "num_workers")
    check_exists("data_dir", args.data_dir)
    check_exists("checksums", args.checksums)
    for flag in ("json", "write_checksums"):
        if path := vars(args)[flag]:
            check_can_write(flag, path, is_folder=False)
    if args.checksums and args.write_checksums:
        raise UserError("--checksums compares with a list, --write_checksums writes one: use one")
    from datasets.checksums import compare_checksums, write_checksums

    if args.checksums:
        tally = compare_checksums(args.data_dir, args.checksums, args.num_workers)
    else:
        tally = verify_data(args.data_dir, args.num_workers)
        if args.write_checksums:
            write_checksums(args.data_dir, args.write_checksums, args.num_workers)
            print(f"checksums: {args.write_checksums}")
    if args.json:
        from utils.report import write_json

        write_json(args.json, tally.to_json())
    _print(tally)
    if tally.counts:
        sys.exit(1)


def verify_data(data_dir: Path, num_workers: int) -> Tally:
    """Check every file of a data set.

    Args:
        data_dir: Folder or zip.
        num_workers: Processes that read; 0 uses this one.

    Raises:
        UserError: It is not a data set that is known here.
    """
    from datasets.checksums import compare_published
    from datasets.problems import Tally
    from utils.pools import in_processes
    from utils.progress import progress

    check = open_check(data_dir)
    tally = Tally(check.notes)
    tally.add(compare_published(data_dir))
    tally.add(check.problems)
    contents, units, places = array("Q"), array("L"), array("Q")
    chunks = [
        range(start, min(start + _CHUNK, len(check.names)))
        for start in range(0, len(check.names), _CHUNK)
    ]
    reports = in_processes(partial(_check_units, check), chunks, num_workers)
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
    if not tally.num_files and not tally.counts:
        raise UserError(
            f"{data_dir} holds no file that can be checked: name the folder or zip of a data set"
        )
    return tally


def _check_units(check: _Check, units: range) -> list[Report]:
    from datasets.problems import DAMAGED, Problem, Report

    reports = []
    for unit in units:
        try:
            reports.append(check.check(unit))
        except (UserError, OSError) as error:  # two files of a band, an encrypted member, ...
            reports.append(Report([Problem(DAMAGED, check.names[unit], str(error))]))
    return reports


def open_check(data_dir: Path) -> _Check:
    """Detect which data set a folder or zip is.

    Args:
        data_dir: Folder or zip.

    Raises:
        UserError: It is none, or not complete.
    """
    from datasets.bigearthnet.facts import V1_FOLDER, V2_FOLDER
    from datasets.bigearthnet.lmdb_store import DATA_FILE
    from datasets.bigearthnet.verify import BigearthnetCheck
    from datasets.eurosat.verify import EurosatCheck
    from datasets.oscd.verify import OscdCheck
    from datasets.seco.verify import SecoCheck
    from datasets.store.litdata import is_litdata
    from datasets.store.reader import is_packed
    from datasets.store.verify import LitdataCheck, StoreCheck
    from datasets.store.writer import is_begun

    if is_begun(data_dir):
        raise UserError(f"{data_dir} is not packed to the end: run the same command again")
    if is_packed(data_dir):
        return StoreCheck(data_dir)
    if is_litdata(data_dir):
        return LitdataCheck(data_dir)
    if any((data_dir / name).is_dir() or data_dir.name == name for name in (V1_FOLDER, V2_FOLDER)):
        return BigearthnetCheck(data_dir, lmdb=False)
    if any(data_dir.glob(DATA_FILE)) or any(data_dir.glob(f"*/{DATA_FILE}")):
        return BigearthnetCheck(data_dir, lmdb=True)
    for kind in (OscdCheck, SecoCheck, EurosatCheck):  # previews of SeCo look like EuroSAT
        try:
            return kind(data_dir)
        except UserError as error:
            reason = error
    raise UserError(
        f"{data_dir} is not one of SeCo, EuroSAT, BigEarthNet, OSCD, a packed store or LitData "
        f"chunks: {reason}"
    )


def _duplicates(check: _Check, contents: array[int], units: array[int]) -> Iterator[Problem]:
    """Yield the files whose pixels occur earlier, and those that leak so from split to split."""
    import numpy as np

    from datasets.problems import DUPLICATE, LEAK, Problem

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


def _shared_places(check: _Check, places: array[int]) -> Iterator[Problem]:
    """Yield what has the georeference of something in another split."""
    from datasets.problems import LEAK, Problem

    seen: dict[int, str] = {}
    for name, place in zip(check.names, places, strict=True):
        if place:
            other = seen.setdefault(place, name)
            splits = [check.splits.get(name), check.splits.get(other)]
            if None not in splits and splits[0] != splits[1]:
                yield Problem(LEAK, name, f"{splits[0]}, is of the place of {other}, {splits[1]}")


def _print(tally: Tally) -> None:
    """Print the table of kinds, and what cannot be found."""
    for kind, count in tally.counts.most_common():
        print(f"{count:>8,}  {kind}")
        for problem in tally.kept[kind][:_SHOWN]:
            print(f"          {quoted(problem.name, 200)}: {quoted(printable(problem.what), 300)}")
        if count > _SHOWN:
            print(f"          ... and {count - _SHOWN:,} more")
    for note in tally.notes:
        print(f"cannot be found: {note}")
    total = sum(tally.counts.values())
    print(f"{tally.num_files:,} files: {f'{total:,} problems' if total else 'nothing found'}")


if __name__ == "__main__":
    run(main)
