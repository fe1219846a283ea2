"""Read BigEarthNet's lists: the patches of each split, and those with snow or clouds.

All lists are checked against each other: a name in two splits is an error, and patches with snow
or clouds are left out of every split, as in the original, and counted.
"""

import csv
import re
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from utils.errors import UserError, quoted
from utils.files import read_list, written_whole

SPLITS = ("train", "val", "test")
METADATA = "metadata.parquet"
# File names of the lists: Neumann et al. 2019, the original's copies of them, TU Berlin's.
LIST_NAMES = ("bigearthnet-{}.txt", "{}.txt", "{}.csv")
SNOW, CLOUD = "with seasonal snow", "with cloud or shadow"
BAD_LISTS = {SNOW: "patches_with_seasonal_snow.csv", CLOUD: "patches_with_cloud_and_shadow.csv"}
_BAD_COLUMNS = {SNOW: "contains_seasonal_snow", CLOUD: "contains_cloud_or_shadow"}
# Names of patches of v1, such as S2A_MSIL2A_20170613T101031_0_45 (www.bigearth.net).
_PATCH = re.compile(r"S2[A-Z]_MSIL2A_\d{8}T\d{6}_\d+_\d+")
# Headings of the column of patches: of BigEarthNet v2's metadata, of TU Berlin's lists, of users.
_HEADINGS = ("s2v1_name", "S2", "patch_id", "patch", "name")
_SPLIT_OF = {"train": "train", "validation": "val", "val": "val", "test": "test"}


@dataclass
class Listing:
    """Contents of the lists.

    Attributes:
        splits: Names of each split's patches, in the order of its list.
        left_out: Number of listed patches that are in no split, by reason.
        labels: Label names of each patch; None if they are in the folders of the patches.
    """

    splits: dict[str, list[str]]
    left_out: dict[str, int] = field(default_factory=dict)
    labels: dict[str, list[str]] | None = None

    @property
    def names(self) -> list[str]:
        """Names of all patches, split by split."""
        return [name for names in self.splits.values() for name in names]


def read_lists(folders: Sequence[Path], patches: Callable[[], Container[str]] = set) -> Listing:
    """Read the lists of BigEarthNet v1 from the first of the folders that has any.

    A list for test may be missing. So may the lists of snow and clouds with TU Berlin's csv files,
    which name no such patches.

    Args:
        folders: Where to look.
        patches: Returns the names of the patches that exist. Of several sets of lists, those that
            name none of them are ignored with a warning: they belong to another data set.

    Raises:
        UserError: A list is missing, empty or not readable, or a patch is in two lists.
    """
    found = [(folder, style) for folder in folders for style in LIST_NAMES if _paths(folder, style)]
    if len(found) > 1:
        found = _without_strangers(found, patches())
    if not found:
        raise UserError(
            f"{folders[0]} has no split lists: put bigearthnet-train.txt, -val.txt and -test.txt "
            "(or TU Berlin's train.csv, val.csv and test.csv) into it"
        )
    styles = [style.format("*") for folder, style in found if folder == found[0][0]]
    if len(styles) > 1:
        raise UserError(
            f"{found[0][0]} has two sets of split lists, {styles[0]} and {styles[1]}: remove "
            "one of them"
        )
    return _read_set(*found[0])


def _without_strangers(
    found: list[tuple[Path, str]], patches: Container[str]
) -> list[tuple[Path, str]]:
    """Drop the sets of lists that name none of the patches, unless all are such."""
    own = [one for one in found if any(n in patches for path in _paths(*one) for n in _names(path))]
    for folder, style in found if own else ():
        if (folder, style) not in own:
            lists = folder / style.format("*")
            warnings.warn(f"{lists} is ignored: it names none of the patches", stacklevel=3)
    return own or found


def _paths(folder: Path, style: str) -> list[Path]:
    """Return the lists of one style that a folder has."""
    paths = [folder / style.format(split) for split in SPLITS]
    return [path for path in paths if path.is_file()]


def _read_set(folder: Path, style: str) -> Listing:
    """Read one set of split lists, and the lists of snow and clouds in its folder."""
    splits = {}
    for split in SPLITS:
        path = folder / style.format(split)
        if path.is_file():
            splits[split] = _names(path)
        elif split != "test":
            raise UserError(f"{folder} has split lists, but no {style.format(split)}: add it")
    bad = {}
    for reason, name in BAD_LISTS.items():
        path = folder / name
        if path.is_file():
            bad[reason] = _names(path)
        elif style.endswith(".txt"):
            raise UserError(
                f"{folder} has no {name}, but the lists {style.format('*')} include such patches: "
                "add the file"
            )
    return _checked(splits, bad, str(folder))


def _names(path: Path) -> list[str]:
    """Read the patches of a list: a name per line, or csv with a heading, an index or quotes.

    The column is that of a known heading, else the first that has names of patches, else the first.
    """
    lines = read_list(path.read_bytes(), path).splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    try:
        cells = [
            [cell.strip() for cell in row]
            for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        ]
    except csv.Error as error:
        raise UserError(
            f"{path} is not readable as csv: {quoted(str(error))}: replace it"
        ) from error
    rows = [row for row in cells if any(row)]
    headings = [name for name in _HEADINGS if rows and name in rows[0]]
    if headings:
        column = rows.pop(0).index(headings[0])
    else:
        named = (i for row in rows for i, cell in enumerate(row) if _PATCH.fullmatch(cell))
        column = next(named, 0)
    names = [row[min(column, len(row) - 1)] for row in rows]
    has_heading = names and names[0][:2] != "S2" and any(map(_PATCH.fullmatch, names))
    return names[1:] if has_heading else names


def _checked(
    splits: Mapping[str, list[str]], bad: Mapping[str, Iterable[str]], where: str
) -> Listing:
    """Check lists against each other and leave out what has snow or clouds."""
    counts = Counter(name for names in splits.values() for name in names)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        inside = [split for split, names in splits.items() if repeated[0] in names]
        place = " and ".join(inside) if len(inside) > 1 else f"{inside[0]} twice"
        raise UserError(
            f"the splits of {where} leak: {len(repeated)} patches are listed more than once, the "
            f"first is {repeated[0]} in {place}"
        )
    left_out, dropped = {}, set[str]()
    for reason, names in bad.items():
        found = {name for name in names if name in counts} - dropped
        left_out[reason] = len(found)
        dropped |= found
    kept = {split: [n for n in names if n not in dropped] for split, names in splits.items()}
    for split, names in kept.items():
        if not names:
            what = "has only patches with snow or clouds" if splits[split] else "is empty"
            raise UserError(f"the {split} split of {where} {what}: correct its list")
    return Listing(kept, left_out)


def read_metadata(path: Path) -> Listing:
    """Read ``metadata.parquet`` of BigEarthNet v2, or that of an LMDB written here."""
    try:
        columns = set(pq.read_schema(path).names)
        needed = ["patch_id", "labels", "split"]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise UserError(f"{path} has no column {missing[0]}: it is not BigEarthNet's metadata")
        flags = [name for name in _BAD_COLUMNS.values() if name in columns]
        values = pq.read_table(path, columns=[*needed, *flags]).to_pydict()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable parquet file: replace it") from error
    for name, labels, split in zip(*(values[column] for column in needed), strict=True):
        if not _is_row(name, labels) or not isinstance(split, str) or split not in _SPLIT_OF:
            raise UserError(f"{path} has a damaged row: {name!r}, {labels!r}, split {split!r}")
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, split in zip(values["patch_id"], values["split"], strict=True):
        splits[_SPLIT_OF[split]].append(name)
    bad = {
        reason: [n for n, is_bad in zip(values["patch_id"], values[flag], strict=True) if is_bad]
        for reason, flag in _BAD_COLUMNS.items()
        if flag in values
    }
    if not splits["test"]:
        del splits["test"]  # an LMDB of lists without one
    listing = _checked(splits, bad, str(path))
    listing.labels = dict(zip(values["patch_id"], values["labels"], strict=True))
    return listing


def _is_row(name: object, labels: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(labels, list)
        and all(isinstance(label, str) for label in labels)
    )


def write_metadata(path: Path, listing: Listing, labels: Sequence[Sequence[str]]) -> None:
    """Write names, labels and splits in the columns of BigEarthNet v2.

    ``labels`` follow ``listing.names``.
    """
    spelling = {"val": "validation"}
    splits = [spelling.get(s, s) for s, names in listing.splits.items() for _ in names]
    columns = {
        "patch_id": pa.array(listing.names, pa.string()),
        "labels": pa.array([list(own) for own in labels], pa.list_(pa.string())),
        "split": pa.array(splits, pa.string()),
    }
    with written_whole(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")
