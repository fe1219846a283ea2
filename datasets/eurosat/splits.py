"""Splits of EuroSAT: the public lists, random or by longitude, or a seeded stratified split.

The command writes the lists, for a pre-training that must see the train images only:

    python datasets/eurosat_dataset.py --data_dir EuroSAT_RGB.zip --save_path lists
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
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


def add_split_args(parser: Parser) -> None:
    """Add the flags of the split."""
    add = parser.group("data").add_argument
    add(
        "--split",
        choices=LIST_PREFIXES,
        default="random",
        help="Public split to use; spatial separates train, val and test by longitude.",
    )
    add(
        "--split_seed",
        type=int,
        default=0,
        help="Seed of the 60/20/20 split that is drawn if no public lists are found.",
    )


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
        UserError: The kind is unknown, a list is missing or does not fit the pictures, or a class
            has too few pictures.
    """
    from datasets.eurosat.files import SmallFiles, label_pictures

    if kind not in LIST_PREFIXES:
        raise UserError(f"unknown kind of split {kind!r}: the kinds are {', '.join(LIST_PREFIXES)}")
    parent = SmallFiles(files.path.absolute().parent)
    folders = dict.fromkeys([(files, root), (files, ""), (parent, "")])
    found = find_split(list(folders), names, kind, needed)
    if found is not None:
        return found
    if kind == "spatial":
        raise UserError(
            f"--split spatial needs {LIST_PREFIXES[kind][0]}train.txt and the lists for val and "
            f"test in {files.path} or next to it: get them with `python datasets/download.py "
            "eurosat_rgb --save_path DIR`, or use the random split"
        )
    classes, labels = label_pictures(names)
    return stratified_split(labels, classes, split_seed)


def stratified_split(labels: Tensor, classes: Sequence[str], split_seed: int) -> dict[str, Tensor]:
    """Split every class 60/20/20, by the hash of (seed, label, position in ``labels``).

    Unlike a shuffle, a hash does not change from one version of a library to the next.

    Args:
        labels: Label of every picture, int64, shape (N,).
        classes: Names of the labels, for the error.
        split_seed: Seed of the split.

    Returns:
        Sorted positions in ``labels`` for each of ``SPLITS``; together all of them.

    Raises:
        UserError: A class has one to four pictures.
    """
    import torch

    from utils.data import sample_keys

    keys = sample_keys(split_seed, labels, torch.arange(len(labels)))
    parts: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    for label, name in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        if 0 < len(members) < 5:
            raise UserError(
                f"class {name} has {len(members)} pictures: a 60/20/20 split needs 5 or more"
            )
        shuffled = members[keys[members].argsort()]
        fifth = len(members) // 5
        sizes = [len(members) - 2 * fifth, fifth, fifth]
        for split, part in zip(SPLITS, shuffled.split(sizes), strict=True):
            parts[split].append(part)
    return {split: torch.cat(part).sort().values for split, part in parts.items()}


def write_split(folder: Path, names: Sequence[str], splits: Mapping[str, Tensor]) -> None:
    """Write ``train.txt``, ``val.txt`` and ``test.txt`` with lines ``<Class>/<file>``.

    In ``--data_dir`` or next to it they act as the public lists; ``main_pretrain.py`` takes them as
    ``--image_list``.
    """
    for split, positions in splits.items():
        with written_whole(folder / f"{split}.txt") as partial:
            partial.write_text("".join(f"{names[index]}\n" for index in positions.tolist()))


def find_split(
    folders: Sequence[tuple[SmallFiles, str]],
    names: Sequence[str],
    kind: str,
    needed: Sequence[str] = SPLITS,
) -> dict[str, Tensor] | None:
    """Find the lists of a kind and match them with the pictures.

    Args:
        folders: Where to look, as files and a prefix of their names. In the first, which holds the
            class folders, lists must fit. In others they may be those of another data set, and are
            ignored with a warning if they name none of the pictures.
        names: ``<Class>/<file>`` of the pictures.
        kind: A key of ``LIST_PREFIXES``.
        needed: Splits that must have a list if any split has one.

    Returns:
        Positions in ``names`` for each split that has a list, int64; None if there are no lists.
    """
    positions = _positions(names)
    for number, (files, folder) in enumerate(folders):
        for prefix in LIST_PREFIXES[kind]:
            try:
                lists = _read_lists(files, f"{folder}{prefix}")
            except (UserError, OSError) as error:
                if number == 0:
                    raise
                warnings.warn(f"lists in {files.path} are ignored: {error}", stacklevel=2)
                continue
            lines = [line for own in lists.values() for line in own]
            if number and lines and all(_find(positions, line) is None for line in lines):
                where = ", ".join(f"{folder}{prefix}{split}.txt" for split in lists)
                warnings.warn(
                    f"{where} in {files.path} is ignored: it names none of the pictures",
                    stacklevel=2,
                )
            elif lists:
                return match_lists(lists, names, files.path, needed)
    return None


def _read_lists(files: SmallFiles, start: str) -> dict[str, list[str]]:
    """Read the lines of the lists whose names begin in one way, without those of hidden files."""
    lists: dict[str, list[str]] = {}
    for split in SPLITS:
        name = f"{start}{split}.txt"
        try:
            text = read_list(files.read(name), files.path / name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise UserError(f"{name} in {files.path} is not readable: replace it") from error
        lines = (line.strip() for line in text.splitlines())
        lists[split] = [line for line in lines if line and not is_hidden(PurePosixPath(line).name)]
    return lists


def match_lists(
    lists: Mapping[str, Sequence[str]],
    names: Sequence[str],
    container: Path,
    needed: Sequence[str] = SPLITS,
) -> dict[str, Tensor]:
    """Find the pictures of each list, in its order, with any folder prefix and suffix.

    Args:
        lists: Lines of the list of each split; the public ones name a .jpg also for a .tif.
        names: ``<Class>/<file>`` of the pictures.
        container: Where the lists are stored, for errors.
        needed: Splits that must have a list.

    Returns:
        Positions in ``names`` for each of ``lists``, int64.
    """
    import torch

    missing = [split for split in needed if split not in lists]
    if missing:
        raise UserError(
            f"{container} has lists of a split, but no {missing[0]}.txt: add it or remove the "
            "others"
        )
    positions = _positions(names)
    splits: dict[str, list[int]] = {split: [] for split in lists}
    problems: dict[str, list[str]] = {"not in the data": [], "listed twice": [], "in two lists": []}
    seen: dict[int, str] = {}
    for split, lines in lists.items():
        if not lines:
            raise UserError(f"the list of the {split} split in {container} is empty: fill it")
        for line in lines:
            position = _find(positions, line)
            if position is None:
                problems["not in the data"].append(line)
            elif position in seen:
                twice = seen[position] == split
                problems["listed twice" if twice else "in two lists"].append(line)
            else:
                seen[position] = split
                splits[split].append(position)
    for problem, lines in problems.items():
        if lines:
            more = "add the pictures, " if problem == "not in the data" else ""
            raise UserError(
                f"{len(lines)} names of the split lists in {container} are {problem}, the first "
                f"is {quoted(lines[0])}: {more}correct the lists or remove them"
            )
    return {split: torch.tensor(rows, dtype=torch.int64) for split, rows in splits.items()}


def _without_suffix(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.name else path  # "." and "/" have no name


def _find(positions: Mapping[str, int | None], line: str) -> int | None:
    """Return the position of the picture that a line of a list names, None if there is not one."""
    path = _without_suffix(line)
    return positions.get("/".join(path.parts[-2:]), positions.get(path.name))


def _positions(names: Sequence[str]) -> dict[str, int | None]:
    """Map names without suffix, with and without folder, to positions; ambiguous ones to None."""
    positions: dict[str, int | None] = {}
    for index, name in enumerate(names):
        path = _without_suffix(name)
        positions[str(path)] = index
        positions[path.name] = None if path.name in positions else index
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
