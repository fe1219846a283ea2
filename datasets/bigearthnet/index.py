"""Find the patches of a BigEarthNet, v1 or v2, in folders or an LMDB, with splits and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.bigearthnet.facts import CLASS_NAMES, V1_FOLDER, V2_FOLDER, multi_hot
from datasets.bigearthnet.folder import PatchFolder
from datasets.bigearthnet.lists import METADATA, Listing, read_lists, read_metadata
from datasets.bigearthnet.lmdb_store import DATA_FILE, PatchLmdb
from utils.errors import UserError, listed
from utils.files import is_hidden

PatchSource = PatchFolder | PatchLmdb
_OF_PICKLES = ("train.lmdb", "val.lmdb")  # of the original
UNLABELLED = "without any of the classes"


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
        reasons = ", ".join(f"{count:,} {why}" for why, count in self.left_out.items() if count)
        return f"BigEarthNet: {sizes}" + (f"; left out: {reasons}" if reasons else "")


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
    return BigEarthNet(
        source=source,
        names=tuple(name for name, keep in zip(names, kept, strict=True) if keep),
        targets=torch.from_numpy(targets[kept]),
        splits=_split_rows(listing, kept),
        classes=CLASS_NAMES[num_classes],
        left_out=listing.left_out | {UNLABELLED: int((~kept).sum())},
    )


def find_patches(data_dir: Path, *, lmdb: bool = False) -> tuple[PatchSource, Listing]:
    """Find the patches of a folder or of the LMDB in it, and read their lists."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir} is not a folder: name the folder of BigEarthNet")
    return _find_lmdb(data_dir) if lmdb else find_folder(data_dir)


def find_folder(data_dir: Path) -> tuple[PatchFolder, Listing]:
    """Find the patch folders of v1 or v2, and read their lists.

    The folders of v2 may be in those of their scenes, as in the archive, or all in one folder.
    """
    if (data_dir / V2_FOLDER).is_dir() or data_dir.name == V2_FOLDER:
        root = data_dir / V2_FOLDER if (data_dir / V2_FOLDER).is_dir() else data_dir
        for folder in (data_dir, root.parent):
            if (folder / METADATA).is_file():
                listing = read_metadata(folder / METADATA)
                is_flat = not PatchFolder(root, by_scene=False).names().isdisjoint(listing.names)
                return PatchFolder(root, by_scene=not is_flat), listing
        raise UserError(f"{root.parent} has no {METADATA}: add that of BigEarthNet v2")
    root = data_dir / V1_FOLDER
    if root.is_dir() or data_dir.name == V1_FOLDER:
        source = PatchFolder(root if root.is_dir() else data_dir, by_scene=False)
        other = root if root.is_dir() else data_dir.parent
        return source, read_lists([data_dir, other], source.names)
    hint = ": it is an LMDB, use --lmdb" if (data_dir / DATA_FILE).exists() else ""
    raise UserError(f"{data_dir} has neither a folder {V1_FOLDER} nor {V2_FOLDER}{hint}")


def _find_lmdb(data_dir: Path) -> tuple[PatchLmdb, Listing]:
    """Find the LMDB in a folder or one below it, and the metadata next to it or above."""
    paths = [data_dir / DATA_FILE, *sorted(data_dir.glob(f"*/{DATA_FILE}"))]
    folders = [path.parent for path in paths if path.is_file()]
    found = [folder for folder in folders if not folder.name.startswith((".", *_OF_PICKLES))]
    if not found:
        pickles = any((data_dir / name).exists() for name in _OF_PICKLES)
        why = "only an LMDB of the original, whose pickles may run code" if pickles else "no LMDB"
        raise UserError(
            f"{data_dir} holds {why}: write one with `python datasets/bigearthnet_dataset.py "
            "--data_dir FOLDER_OF_BIGEARTHNET --save_dir DIR`"
        )
    if len(found) > 1:
        raise UserError(f"{data_dir} holds the LMDBs {found[0]} and {found[1]}: name one of them")
    for folder in (found[0], data_dir):
        if (folder / METADATA).is_file():
            return PatchLmdb(found[0].resolve()), read_metadata(folder / METADATA)
    raise UserError(
        f"{found[0]} has an LMDB, but no {METADATA} with splits and labels: add that of "
        "BigEarthNet v2, or write the LMDB again"
    )


def labels_of(source: PatchSource, listing: Listing) -> list[list[str]]:
    """Return the label names of ``listing.names``."""
    if listing.labels is not None:
        return [listing.labels[name] for name in listing.names]
    assert isinstance(source, PatchFolder)  # an LMDB always has metadata with labels
    return source.read_labels(listing.names)


def check_presence(names: Sequence[str], source: PatchSource) -> None:
    """Refuse lists that name absent patches."""
    present = source.names()
    absent = [name for name in names if name not in present]
    if absent and len(absent) == len(names) and isinstance(source, PatchFolder):
        found = sorted(name for name in present if not is_hidden(name))
        raise UserError(
            f"{source.root} has none of the {len(names):,} listed patches, such as {absent[0]}, "
            f"but {listed(found) or 'nothing'}: {source.layout} is expected"
        )
    if absent:
        raise UserError(
            f"{len(absent):,} of the {len(names):,} listed patches are not in {source.root}, the "
            f"first is {absent[0]}: restore them, or remove them from the lists"
        )


def _split_rows(listing: Listing, kept: np.ndarray) -> dict[str, Tensor]:
    """Number the kept patches split by split."""
    splits, first, start = {}, 0, 0
    for split, names in listing.splits.items():
        count = int(kept[start : start + len(names)].sum())
        if not count:
            raise UserError(f"the {split} split has only patches {UNLABELLED}: correct its list")
        splits[split] = torch.arange(first, first + count)
        first, start = first + count, start + len(names)
    return splits
