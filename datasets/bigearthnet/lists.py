"""BigEarthNet's lists: the patches of each split, and those with snow or clouds.

All lists are checked against each other: a name in two splits is an error, and patches with snow
or clouds are left out of every split, as in the original, and counted.
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.checking.problems import LABEL, LEAK, Problem
from utils.errors import UserError
from utils.files import MAX_TABLE_BYTES, read_file, read_list, written_whole

METADATA = "metadata.parquet"
# File names of the lists: Neumann et al. 2019, the original's copies of them, TU Berlin's.
LIST_NAMES = ("bigearthnet-{}.txt", "{}.txt", "{}.csv")
SNOW, CLOUD = "with seasonal snow", "with cloud or shadow"
BAD_LISTS = {SNOW: "patches_with_seasonal_snow.csv", CLOUD: "patches_with_cloud_and_shadow.csv"}
# A patch of v1 in a line, such as S2A_MSIL2A_20170613T101031_0_45 (www.bigearth.net); in real names
# times lack leading zeros: S2B_MSIL2A_20170924T93020_5_32. Lists have it alone, in quotes, after an
# index, or among names of Sentinel-1, of v2 and labels.
_PATCH = re.compile(r"(?<!\w)S2[A-Z]_MSIL2A_\d+T\d+_\d+_\d+(?!\w)")
# Columns of BigEarthNet v2's metadata, and its spelling of the splits.
_SCHEMA = pa.schema(
    {"patch_id": pa.string(), "labels": pa.list_(pa.string()), "split": pa.string()}
)
_MAX_ROWS, _BATCH_ROWS = 2**20, 2**9  # of metadata; version 1 has 590,326 patches
_BAD_COLUMNS = {SNOW: "contains_seasonal_snow", CLOUD: "contains_cloud_or_shadow"}
_SPELLINGS = {"train": "train", "val": "validation", "test": "test"}


@dataclass
class Listing:
    """Contents of the lists.

    Attributes:
        splits: Names of each split's patches, in the order of its list; test may be missing.
        left_out: Number of listed patches that are in no split, by reason.
        labels: Label names of each patch; None if they are in the folders of the patches.
        problems: What is wrong with them, if they were not read strictly.
    """

    splits: dict[str, list[str]]
    left_out: dict[str, int] = field(default_factory=dict)
    labels: dict[str, list[str]] | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of all patches, split by split."""
        return [name for names in self.splits.values() for name in names]


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Return how many patches were left out and why, to be appended to a message."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    return reasons and f"; left out: {reasons}"


def read_lists(folders: Sequence[Path], *, strict: bool = True) -> Listing:
    """Read the lists of BigEarthNet v1 from the first of the folders that has any.

    Lists of another data set are ignored with a warning. A list for test may be missing. So may
    the lists of snow and clouds with TU Berlin's csv files, which name no such patches.

    Args:
        folders: Folders to search, in this order.
        strict: Refuse lists that leak, are empty or have lines without a patch; else note these.

    Raises:
        UserError: A list is missing, or there are lists of two kinds.
    """
    for folder in folders:
        found = {}
        for style in LIST_NAMES:
            lists = _read_existing({split: folder / style.format(split) for split in _SPELLINGS})
            if any(any(names) for names in lists.values()):
                found[style] = lists
            elif lists:
                where = folder / style.format("*")
                warnings.warn(f"{where} is ignored: it names no patch of v1", stacklevel=2)
        if found:
            break
    if len(found) != 1:
        styles = " and ".join(style.format("*") for style in found) or "none"
        raise UserError(
            f"{folders[0]} needs one set of split lists, but has {styles}: keep or add "
            "bigearthnet-train.txt, -val.txt and -test.txt, or TU Berlin's train.csv and so on"
        )
    [(style, lists)] = found.items()
    bad = _read_existing({reason: folder / name for reason, name in BAD_LISTS.items()})
    needed = {style.format(split): split in lists for split in ("train", "val")}
    if style.endswith(".txt"):
        needed |= {name: reason in bad for reason, name in BAD_LISTS.items()}
    for name, exists in needed.items():
        if not exists:
            raise UserError(f"{folder} has lists of BigEarthNet, but no {name}: add it")
    return _checked(lists, bad, str(folder), strict)


def _read_existing(paths: Mapping[str, Path]) -> dict[str, list[str]]:
    """Read the patch that each line names, "" if it names none; the first may be a heading."""
    lists = {}
    for what, path in paths.items():
        if path.is_file():
            lines = read_list(read_file(path, MAX_TABLE_BYTES), path).splitlines()
            matches = [_PATCH.search(line) for line in lines if line.strip()]
            names = [match[0] if match else "" for match in matches]
            lists[what] = names[1:] if names[:1] == [""] else names
    return lists


def _checked(
    splits: dict[str, list[str]], bad: dict[str, list[str]], where: str, strict: bool
) -> Listing:
    """Check lists against each other and leave out what has snow or clouds."""
    problems = []
    for what, names in (splits | bad).items():
        if "" in names and strict:
            raise UserError(
                f"the list {what} of {where} has lines that name no patch of v1: correct it"
            )
        if "" in names:
            problems.append(Problem(LABEL, what, f"{names.count('')} lines name no patch of v1"))
    counts = Counter(name for names in splits.values() for name in names if name)
    repeated = {name: list[str]() for name, count in counts.items() if count > 1}
    for split, names in splits.items():
        for name in repeated.keys() & set(names):
            repeated[name].append(split)
    if repeated and strict:
        name, inside = next(iter(repeated.items()))
        raise UserError(
            f"the splits of {where} leak: {len(repeated)} patches are listed more than once, the "
            f"first is {name} in {' and '.join(inside)}: keep each in one list"
        )
    for name, inside in repeated.items():
        problems.append(Problem(LEAK, name, f"is listed more than once, in {' and '.join(inside)}"))
    left_out, dropped = {}, {""}
    for reason, names in bad.items():
        found = counts.keys() & set(names) - dropped
        left_out[reason] = len(found)
        dropped |= found
    kept = {split: [n for n in names if n not in dropped] for split, names in splits.items()}
    if strict:
        check_not_empty(kept, where)
    return Listing(kept, left_out, problems=problems)


def check_not_empty(splits: Mapping[str, Sized], where: object) -> None:
    """Refuse a split without patches.

    Args:
        splits: Patches of each split.
        where: File or folder of the lists, for the message.
    """
    for split, patches in splits.items():
        if not len(patches):
            raise UserError(f"no patch is left in the {split} split of {where}: correct its list")


def read_metadata(path: Path, *, strict: bool = True) -> Listing:
    """Read ``metadata.parquet`` of BigEarthNet v2, or that of an LMDB written here.

    Args:
        path: The file.
        strict: As in ``read_lists``.

    Raises:
        UserError: The file is something else.
    """
    try:
        flags, table = _read_table(path)
        names, labels, of_rows = table.select(_SCHEMA.names).cast(_SCHEMA).to_pydict().values()
        rows = zip(names, labels, of_rows, strict=True)
        if any(None in (name, own, *(own or ())) for name, own, _ in rows):
            raise ValueError("empty cells")
        if not set(of_rows) <= set(_SPELLINGS.values()):
            raise ValueError("unknown splits")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not BigEarthNet's metadata, a parquet file with patch_id, labels and split "
            "(train, validation, test) in every row: replace it"
        ) from error
    splits: dict[str, list[str]] = {split: [] for split in _SPELLINGS}
    split_of = {spelling: split for split, spelling in _SPELLINGS.items()}
    for name, of_row in zip(names, of_rows, strict=True):
        splits[split_of[of_row]].append(name)
    if not splits["test"]:
        del splits["test"]  # an LMDB of lists without one
    bad = {
        reason: [n for n, is_bad in zip(names, table[flag].to_pylist(), strict=True) if is_bad]
        for reason, flag in _BAD_COLUMNS.items()
        if flag in flags
    }
    listing = _checked(splits, bad, str(path), strict)
    listing.labels = dict(zip(names, labels, strict=True))
    return listing


def _read_table(path: Path) -> tuple[set[str], pa.Table]:
    """Read the columns of a parquet file, and which flags are among them.

    A repeated row takes next to no space in a file, so that its size limits nothing.
    """
    file = pq.ParquetFile(pa.BufferReader(read_file(path, MAX_TABLE_BYTES)))
    if file.metadata.num_rows > _MAX_ROWS:
        raise ValueError(f"{file.metadata.num_rows:,} rows")
    flags = set(file.schema_arrow.names).intersection(_BAD_COLUMNS.values())
    batches: list[pa.RecordBatch] = []
    num_bytes = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=[*_SCHEMA.names, *flags]):
        num_bytes += batch.nbytes
        if num_bytes > MAX_TABLE_BYTES:
            raise ValueError(f"more than {MAX_TABLE_BYTES:,} bytes of text")
        batches.append(batch)
    return flags, pa.Table.from_batches(batches)


def write_metadata(path: Path, listing: Listing, labels: Sequence[Sequence[str]]) -> None:
    """Write names, splits and labels in the columns of BigEarthNet v2.

    Args:
        path: Parquet file to write.
        listing: Names of each split.
        labels: Label names of each of ``listing.names``.
    """
    splits = [_SPELLINGS[split] for split, names in listing.splits.items() for _ in names]
    columns = {"patch_id": listing.names, "labels": [list(own) for own in labels], "split": splits}
    with written_whole(path) as partial:
        pq.write_table(pa.table(columns, schema=_SCHEMA), partial, compression="zstd")
