"""Splits of EuroSAT: the public lists, random or by longitude, or a seeded stratified split.

The command writes the lists, for a pre-training that must see the train images only:

    python datasets/eurosat_dataset.py --data_dir EuroSAT_RGB.zip --save_path lists
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import print_next
from utils.errors import UserError, quoted
from utils.files import check_exists, is_hidden, read_list, written_whole
from utils.flags import Parser, check_not_negative

if TYPE_CHECKING:  # the scripts parse their flags before torch is imported
    from torch import Tensor

    from datasets.eurosat.files import SmallFiles

SPLITS = ("train", "val", "test")
# Names of the public lists, <prefix><split>.txt, by kind of split. Random: of Neumann et al. 2019,
# and as torchgeo names them. Spatial: torchgeo's, train, val and test are apart in longitude.
LIST_PREFIXES = {"random": ("", "eurosat-"), "spatial": ("eurosat-spatial-",)}
_SPLIT_HELP = "Public split to use; spatial separates train, val and test by longitude."
_SEED_HELP = "Seed of the 60/20/20 split that is drawn if no public lists are found."


def add_split_args(parser: Parser) -> None:
    """Add the flags of the split."""
    add = parser.group("data").add_argument
    add("--split", choices=LIST_PREFIXES, default="random", help=_SPLIT_HELP)
    add("--split_seed", type=int, default=0, help=_SEED_HELP)


def split_pictures(
    files: SmallFiles,
    root: str,
    names: Sequence[str],
    split_seed: int,
    kind: str = "random",
    needed: Sequence[str] = SPLITS,
) -> dict[str, Tensor]:
    """Return the public split where its lists are found, else a stratified 60/20/20 one.

    Args:
        files: Zip or folder of the data set.
        root: Prefix of the class folders in it.
        names: ``<Class>/<file>`` of all pictures.
        split_seed: Seed of the stratified split; the public one needs none.
        kind: A key of ``LIST_PREFIXES``; "spatial" exists as public lists only.
        needed: Splits that must have a list if any split has one.

    Returns:
        Positions in ``names`` for each split that has a list, int64.

    Raises:
        UserError: A list is missing or does not fit, or a class has too few pictures.
    """
    import torch

    if kind not in LIST_PREFIXES:
        raise UserError(f"unknown kind of split {kind!r}: the kinds are {', '.join(LIST_PREFIXES)}")
    lists, container = find_lists(files, root, names, kind)
    if lists:
        _check_lists(lists, container, needed)
        return {split: torch.tensor([row for _, row in rows]) for split, rows in lists.items()}
    if kind == "spatial":
        raise UserError(
            f"--split spatial needs {LIST_PREFIXES[kind][0]}train.txt and the lists for val and "
            f"test in {files.path} or next to it: get them with `python datasets/download.py "
            "eurosat_rgb --save_path DIR`, or use the random split"
        )
    return _draw(names, split_seed)


def write_split(folder: Path, names: Sequence[str], splits: Mapping[str, Tensor]) -> None:
    """Write ``train.txt``, ``val.txt`` and ``test.txt`` with lines ``<Class>/<file>``.

    In ``--data_dir`` or next to it they act as the public lists; ``main_pretrain.py`` takes them as
    ``--image_list``.

    Args:
        folder: Folder of the lists.
        names: Name "<Class>/<file>" of every image.
        splits: Positions in ``names`` of each split, int64.
    """
    for split, positions in splits.items():
        with written_whole(folder / f"{split}.txt") as partial:
            partial.write_text("".join(f"{names[index]}\n" for index in positions.tolist()))


def find_lists(
    files: SmallFiles, root: str, names: Sequence[str], kind: str
) -> tuple[dict[str, list[tuple[str, int | None]]], Path]:
    """Return the first lists in the folder of the classes, in the data set or next to it.

    In the last two they may be those of another data set, and are then ignored with a warning, also
    where they cannot be read. Without lists the dictionary is empty.

    Args:
        files: Zip or folder of the data set.
        root: Prefix of the class folders in it.
        names: ``<Class>/<file>`` of all pictures.
        kind: A key of ``LIST_PREFIXES``.

    Returns:
        Lines of each list with their positions in ``names``; where the lists are.
    """
    from datasets.eurosat.files import SmallFiles

    positions, prefixes = _positions(names), LIST_PREFIXES[kind]
    parent = SmallFiles(files.path.absolute().parent)
    folders = dict.fromkeys([(files, root), (files, ""), (parent, "")])
    for number, (container, folder) in enumerate(folders):
        for prefix in prefixes:
            try:
                lists = _read_lists(container, f"{folder}{prefix}", positions)
            except (UserError, OSError) as error:
                if number == 0:
                    raise
                warnings.warn(f"lists in {container.path} are ignored: {error}", stacklevel=3)
                continue
            is_known = any(row is not None for rows in lists.values() for _, row in rows)
            if lists and (number == 0 or is_known):
                return lists, container.path
            if lists:
                found = ", ".join(f"{folder}{prefix}{split}.txt" for split in lists)
                warnings.warn(
                    f"{found} in {container.path} is ignored: it names none of the pictures",
                    stacklevel=3,
                )
    return {}, files.path


def _draw(names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Split every class 60/20/20, by the hash of (seed, label, position), and sort the positions.

    Unlike a shuffle, a hash does not change from one version of a library to the next.
    """
    import torch

    from datasets.eurosat.files import label_pictures
    from utils.data import sample_keys

    classes, labels = label_pictures(names)
    keys = sample_keys(seed, labels, torch.arange(len(labels)))
    parts: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        fifth = len(members) // 5
        if fifth == 0:
            raise UserError(
                f"class {classes[label]} has {len(members)} pictures: a 60/20/20 split needs 5 or "
                "more"
            )
        shuffled = members[keys[members].argsort()]
        sizes = [len(members) - 2 * fifth, fifth, fifth]
        for split, part in zip(SPLITS, shuffled.split(sizes), strict=True):
            parts[split].append(part)
    return {split: torch.cat(part).sort().values for split, part in parts.items()}


def _read_lists(
    files: SmallFiles, start: str, positions: Mapping[str, int | None]
) -> dict[str, list[tuple[str, int | None]]]:
    """Read the lists whose names begin with ``start``: lines, and the pictures that they name.

    A line has any folder prefix and suffix, because the public lists name a .jpg also for a .tif.
    """
    lists: dict[str, list[tuple[str, int | None]]] = {}
    for split in SPLITS:
        name = f"{start}{split}.txt"
        try:
            lines = read_list(files.read(name), files.path / name).splitlines()
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise UserError(f"{name} in {files.path} is not readable: replace it") from error
        lists[split] = []
        for line in filter(None, map(str.strip, lines)):
            key = _key(line)
            alone = key.split("/")[-1]
            if not is_hidden(alone):
                lists[split].append((line, positions.get(key, positions.get(alone))))
    return lists


def _check_lists(
    lists: Mapping[str, Sequence[tuple[str, int | None]]], container: Path, needed: Sequence[str]
) -> None:
    """Refuse lists that are missing, leak or do not fit the pictures."""
    for split in [*needed, *lists]:
        if not lists.get(split):
            raise UserError(
                f"{container} has lists of a split, but {split}.txt is missing or empty: add it or "
                "remove the others"
            )
    for problem, lines in list_problems(lists).items():
        if lines:
            raise UserError(
                f"{len(lines)} names of the split lists in {container} are {problem}, the first "
                f"is {quoted(lines[0])}: add missing pictures, correct the lists or remove them"
            )


def list_problems(lists: Mapping[str, Sequence[tuple[str, int | None]]]) -> dict[str, list[str]]:
    """Return the lines that name no picture, and those whose picture has another line.

    Args:
        lists: Lines of each split, with positions of pictures, see ``find_lists``.
    """
    pairs = [pair for rows in lists.values() for pair in rows]
    counts = Counter(row for _, row in pairs)
    return {
        "not in the data": [line for line, row in pairs if row is None],
        "listed more than once": [
            line for line, row in pairs if row is not None and counts[row] > 1
        ],
    }


def _key(name: str) -> str:
    """Return ``<Class>/<name>`` without suffix."""
    return "/".join(re.sub(r"\.\w+$", "", name).split("/")[-2:])


def _positions(names: Sequence[str]) -> dict[str, int | None]:
    """Map names without suffix, with and without folder, to positions; ambiguous ones to None."""
    positions: dict[str, int | None] = {}
    for index, name in enumerate(names):
        alone = _key(name).split("/")[-1]
        positions[alone] = None if alone in positions else index
        positions[_key(name)] = index
    return positions


def main(argv: Sequence[str] | None = None) -> None:
    """Write the lists of the split: the command of ``datasets/eurosat_dataset.py``."""
    parser = Parser(__doc__)
    add = parser.group("data").add_argument
    add("--data_dir", type=Path, required=True, help="Zip or folder of EuroSAT.")
    add_split_args(parser)
    add = parser.group("output").add_argument
    add("--save_path", type=Path, required=True, help="Folder for the three lists.")
    args = parser.parse_args(argv)
    check_exists("data_dir", args.data_dir)
    check_not_negative(args, "split_seed")
    from datasets.eurosat.files import SmallFiles, find_pictures, is_geotiff

    files = SmallFiles(args.data_dir)
    root, names = find_pictures(files)
    splits = split_pictures(files, root, names, args.split_seed, args.split)
    write_split(args.save_path, names, splits)
    for split, positions in splits.items():
        print(f"{args.save_path / split}.txt: {len(positions)} images")
    if not is_geotiff(names[0]):  # RGB pictures, which are pre-trained on without the labels
        listed = ("--image_list", args.save_path / "train.txt")
        flags = ("--data_mode", "moco", "--preset", "small_images")
        print_next("main_pretrain.py", "--data_dir", args.data_dir, *listed, *flags)
