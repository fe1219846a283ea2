"""Find the patches of a BigEarthNet, v1 or v2, in folders or an LMDB, with splits and labels."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.bigearthnet import lists
from datasets.bigearthnet.facts import CLASS_NAMES, V1_FOLDER, V2_FOLDER, multi_hot
from datasets.bigearthnet.folder import PatchFolder
from datasets.bigearthnet.lists import METADATA, Listing
from datasets.bigearthnet.lmdb_store import DATA_FILE, PatchLmdb
from utils.errors import UserError
from utils.progress import progress

PatchSource = PatchFolder | PatchLmdb
UNLABELLED = "without any of the classes"
_NUM_THREADS = 8  # which wait for the disk


@dataclass(frozen=True)
class BigEarthNet:
    """The patches that the lists name.

    Attributes:
        source: Where to read them.
        names: Name of each patch, split by split, in the order of the lists; N of them.
        targets: 1 where a patch has a class, uint8, shape (N, C).
        splits: Rows of each split, int64; test may be missing.
        classes: Names of the classes, C of them.
        left_out: Number of listed patches that are in no split, by reason.
    """

    source: PatchSource
    names: tuple[str, ...]
    targets: Tensor
    splits: dict[str, Tensor]
    classes: tuple[str, ...]
    left_out: dict[str, int]

    def summary(self) -> str:
        """Describe the sizes of the splits, and what was left out, in one line."""
        sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in self.splits.items())
        return f"BigEarthNet: {sizes}{lists.left_out_text(self.left_out)}"


def open_bigearthnet(
    data_dir: Path, *, lmdb: bool = False, num_classes: int = 19, keep_unlabelled: bool = False
) -> BigEarthNet:
    """Read lists and labels of all splits.

    Patches without any of the 19 classes, such as airports alone, are left out: TU Berlin's lists,
    which have 519,284 of the 519,339 patches free of snow and clouds, leave out these 55 too.

    Args:
        data_dir: Folder of v1 or v2, or of an LMDB.
        lmdb: Whether to read the LMDB in it.
        num_classes: 19 or 43 (v1 only).
        keep_unlabelled: Keep patches without a class, as the original does.

    Raises:
        UserError: The folder is not a BigEarthNet, or its lists and patches do not match.
    """
    source, listing = find_patches(data_dir, lmdb=lmdb)
    names = listing.names
    check_presence(names, source)
    targets = multi_hot(names, labels_of(source, listing), num_classes)
    kept = (targets.sum(1) > 0) | keep_unlabelled
    split_of = np.repeat(list(listing.splits), [len(own) for own in listing.splits.values()])[kept]
    splits = {
        split: torch.from_numpy(np.flatnonzero(split_of == split)) for split in listing.splits
    }
    lists.check_not_empty(splits, data_dir)
    left_out = listing.left_out | {UNLABELLED: int((~kept).sum())}
    names_kept, targets_kept = tuple(compress(names, kept)), torch.from_numpy(targets[kept])
    return BigEarthNet(source, names_kept, targets_kept, splits, CLASS_NAMES[num_classes], left_out)


def find_patches(data_dir: Path, *, lmdb: bool, strict: bool = True) -> tuple[PatchSource, Listing]:
    """Find the patches of a folder or of an LMDB, and read their lists.

    Args:
        data_dir: Folder of the patches; of an LMDB, its folder or the one above.
        lmdb: Whether the patches are in an LMDB.
        strict: Whether lists with problems are refused, see ``lists.read_lists``.

    Raises:
        UserError: There is none, or more than one LMDB.
    """
    if not lmdb:
        return find_folder(data_dir, strict=strict)
    paths = [data_dir / DATA_FILE, *sorted(data_dir.glob(f"*/{DATA_FILE}"))]
    folders = [path.parent for path in paths if path.is_file()]
    # Those of the original have pickles, hidden ones are unfinished.
    found = [each for each in folders if not each.name.startswith((".", "train.lmdb", "val.lmdb"))]
    if len(found) != 1:
        raise UserError(
            f"{data_dir} holds {len(found)} LMDBs of patches, besides those of the original, whose "
            "pickles may run code: name the folder of one, or write one with `python "
            "datasets/bigearthnet_dataset.py --data_dir FOLDER_OF_BIGEARTHNET --save_dir DIR`"
        )
    return PatchLmdb(found[0].resolve()), _read_metadata((found[0], data_dir), strict)


def find_folder(data_dir: Path, *, strict: bool = True) -> tuple[PatchFolder, Listing]:
    """Find the patch folders of v1 or v2, and read the lists in or next to their folder.

    The folders of v2 may be in those of their scenes, as in the archive, or all in one folder.

    Args:
        data_dir: Folder of v1 or v2, or the one above.
        strict: Whether lists with problems are refused, see ``lists.read_lists``.

    Raises:
        UserError: There are no folders of patches.
    """
    for version in (V2_FOLDER, V1_FOLDER):
        inside = data_dir / version
        root = inside if inside.is_dir() or data_dir.name != version else data_dir
        flat = PatchFolder(root, by_scene=False)
        if root.is_dir() and version == V1_FOLDER:
            return flat, lists.read_lists((root.parent, root), strict=strict)
        if root.is_dir():
            listing = _read_metadata((root.parent, root), strict)
            is_flat = not flat.names().isdisjoint(listing.names)
            return PatchFolder(root, by_scene=not is_flat), listing
    hint = ": it is an LMDB, use --lmdb" if (data_dir / DATA_FILE).exists() else ""
    raise UserError(f"{data_dir} has neither a folder {V1_FOLDER} nor {V2_FOLDER}{hint}")


def has_patch_folder(data_dir: Path) -> bool:
    """Return whether a folder is, or holds, the folder of v1 or v2."""
    names = (V1_FOLDER, V2_FOLDER)
    return data_dir.name in names or any((data_dir / name).is_dir() for name in names)


def is_lmdb(data_dir: Path) -> bool:
    """Return whether a folder holds an LMDB of BigEarthNet's patches."""
    return any(data_dir.glob(DATA_FILE)) or any(data_dir.glob(f"*/{DATA_FILE}"))


def is_bigearthnet(data_dir: Path) -> bool:
    """Return whether a folder holds BigEarthNet, as unpacked or as an LMDB."""
    return has_patch_folder(data_dir) or is_lmdb(data_dir)


def _read_metadata(folders: Sequence[Path], strict: bool) -> Listing:
    for folder in folders:
        if (folder / METADATA).is_file():
            return lists.read_metadata(folder / METADATA, strict=strict)
    raise UserError(
        f"{folders[0]} has no {METADATA} with splits and labels: add that of BigEarthNet v2, or "
        "write the LMDB again"
    )


def label_reader(source: PatchSource, listing: Listing) -> Callable[[str], list[str]]:
    """Return the function that reads the label names of a patch.

    Args:
        source: The patches.
        listing: Their lists; without labels, those in the folders of the patches are read.
    """
    if listing.labels is not None:
        return listing.labels.__getitem__
    assert isinstance(source, PatchFolder)  # an LMDB always has metadata with labels
    return source.read_labels


def labels_of(source: PatchSource, listing: Listing) -> list[list[str]]:
    """Return the label names of each of ``listing.names``; arguments as in ``label_reader``."""
    read, names = label_reader(source, listing), listing.names
    if listing.labels is not None:
        return list(map(read, names))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(read, names)
        return list(progress(found, total=len(names), desc="labels", unit=" patches", leave=False))


def check_presence(names: Sequence[str], source: PatchSource) -> None:
    """Refuse lists that name absent patches.

    Args:
        names: Listed names of patches.
        source: The patches.
    """
    present = source.names()
    absent = [name for name in names if name not in present]
    if absent:
        layout = "SCENE/PATCH" if isinstance(source, PatchFolder) and source.by_scene else "PATCH"
        raise UserError(
            f"{len(absent):,} of the {len(names):,} listed patches are not in {source.root} "
            f"({layout} is expected), the first is {absent[0]}: restore them, or remove them from "
            "the lists"
        )
