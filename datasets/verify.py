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
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.cli import run
from utils.cores import available_cores
from utils.errors import UserError, printable, quoted
from utils.files import check_can_write, check_exists
from utils.flags import Parser, check_not_negative

if TYPE_CHECKING:  # flags are parsed without NumPy
    from datasets.checking.problems import Tally
    from datasets.checking.whole_sets import SetCheck

# Modules that take long to import are imported by the functions that use them.

_SHOWN = 5  # names of each kind that are printed


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
    from datasets.checking.checksums import compare_checksums, write_checksums

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
    from datasets.checking.checksums import compare_published
    from datasets.checking.problems import Tally
    from datasets.checking.whole_sets import check_units
    from datasets.download import COLLECTIONS

    check = open_check(data_dir)
    tally = Tally(check.notes)
    published = (file for each in COLLECTIONS.values() for file in each.files)
    tally.add(compare_published(data_dir, published))
    tally.add(check.problems)
    check_units(check, tally, num_workers)
    if not tally.num_files and not tally.counts:
        raise UserError(
            f"{data_dir} holds no file that can be checked: name the folder or zip of a data set"
        )
    return tally


def open_check(data_dir: Path) -> SetCheck:
    """Detect which data set a folder or zip is.

    Args:
        data_dir: Folder or zip.

    Raises:
        UserError: It is none, or not complete.
    """
    from datasets.bigearthnet.index import has_patch_folder, is_lmdb
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
    if has_patch_folder(data_dir):
        return BigearthnetCheck(data_dir, lmdb=False)
    if is_lmdb(data_dir):
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
