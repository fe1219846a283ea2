"""BigEarthNet's lists: which patches are in which split, and which have snow or clouds.

All lists are checked against each other: a name in two splits is an error, and patches with snow
or clouds are left out of every split, as the original does, and counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.pictures import read_list
from utils.errors import UserError
from utils.files import written_whole

SPLITS = ("train", "val", "test")
METADATA = "metadata.parquet"
# File names of the lists: Neumann et al. 2019, the original's copies of them, TU Berlin's.
LIST_NAMES = ("bigearthnet-{}.txt", "{}.txt", "{}.csv")
SNOW, CLOUD = "with seasonal snow", "with cloud or shadow"
BAD_LISTS = {SNOW: "patches_with_seasonal_snow.csv", CLOUD: "patches_with_cloud_and_shadow.csv"}
_BAD_COLUMNS = {SNOW: "contains_seasonal_snow", CLOUD: "contains_cloud_or_shadow"}
_SPLIT_OF = {"train": "train", "validation": "val", "val": "val", "test": "test"}


@dataclass
class Listing:
    """What the lists say.

    Attributes:
        splits: Names of each split's patches, in the order of its list.
        left_out: Number of listed patches that are in no split, by reason.
        labels: Label names of each patch; None if the patches hold them themselves.
    """

    splits: dict[str, list[str]]
    left_out: dict[str, int] = field(default_factory=dict)
    labels: dict[str, list[str]] | None = None

    @property
    def names(self) -> list[str]:
        """Names of all patches, split by split."""
        return [name for names in self.splits.values() for name in names]


def read_lists(folders: Sequence[Path]) -> Listing:
    """Read the lists of BigEarthNet v1 from the first of the folders that has any.

    A list for test may be missing. So may the lists of snow and clouds beside TU Berlin's csv
    files, which name no such patches.
    """
    for folder in folders:
        found = [style for style in LIST_NAMES if any(_list_path(folder, style, s) for s in SPLITS)]
        if len(found) > 1:
            raise UserError(
                f"{folder} has two sets of split lists, {found[0].format('*')} and "
                f"{found[1].format('*')}: take one of them away"
            )
        if found:
            return _read_set(folder, found[0])
    raise UserError(
        f"{folders[0]} has no split lists: put bigearthnet-train.txt, -val.txt and -test.txt (or "
        "TU Berlin's train.csv, val.csv and test.csv) into it"
    )


def _list_path(folder: Path, style: str, split: str) -> Path | None:
    path = folder / style.format(split)
    return path if path.is_file() else None


def _read_set(folder: Path, style: str) -> Listing:
    """Read one set of split lists, and the lists of snow and clouds beside it."""
    splits = {}
    for split in SPLITS:
        path = _list_path(folder, style, split)
        if path is not None:
            splits[split] = _read_names(path)
        elif split != "test":
            raise UserError(f"{folder} has split lists, but no {style.format(split)}: add it")
    bad = {}
    for reason, name in BAD_LISTS.items():
        path = folder / name
        if path.is_file():
            bad[reason] = _read_names(path)
        elif style.endswith(".txt"):
            raise UserError(
                f"{folder} has no {name}: the lists {style.format('*')} include such patches, "
                "put the file beside them"
            )
    return _checked(splits, bad, str(folder))


def _read_names(path: Path) -> list[str]:
    """Read the first column of a list, without its heading if it has one."""
    cells = (line.split(",")[0].strip() for line in read_list(path.read_bytes(), path).splitlines())
    return [cell for cell in cells if cell and cell != "S2"]


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
    """Read ``metadata.parquet`` of BigEarthNet v2, or what our LMDB has beside it."""
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
