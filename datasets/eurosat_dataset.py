"""EuroSAT (Helber et al. 2018, 2019): 64 x 64 px RGB pictures of ten land-cover classes.

Write the lists of the split alone, for a pre-training that must see the train images only:

    python datasets/eurosat_dataset.py --data_dir EuroSAT_RGB.zip --save_path lists
"""

import hashlib
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datasets.pictures import UNREADABLE, read_list
from utils.cli import HelpFormatter, run
from utils.errors import UserError
from utils.random import sample_keys

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png")
# Folders of the archive of 2023 and of 2018; "" stands for class folders without a parent.
ROOTS = ("EuroSAT_RGB/", "2750/", "")
# Names of the public lists: <split>.txt (Neumann et al. 2019), and torchgeo's eurosat-<split>.txt.
LIST_PREFIXES = ("", "eurosat-")

_CHUNK = 250  # pictures per task of a thread


class EurosatDataset:
    """The files of EuroSAT in a zip or a folder; any stray files in it are ignored.

    Attributes:
        data_dir: The zip or folder.
        root: Prefix of the class folders in it, one of ``ROOTS``.
        names: ``<Class>/<file>`` of every picture, sorted.
        classes: Names of the class folders, sorted: label i means ``classes[i]``.
        labels: Label of every picture, int64, shape (N,).
    """

    def __init__(self, data_dir: Path) -> None:
        paths = _list_paths(data_dir)
        for self.root in ROOTS:
            self.names = tuple(sorted(_class_files(paths, self.root)))
            folders = [name.split("/")[0] for name in self.names]
            self.classes = tuple(sorted(set(folders)))
            if len(self.classes) > 1:
                break
        else:
            raise UserError(
                f"{data_dir} has no class folders with JPEG or PNG pictures: --data_dir takes "
                "EuroSAT_RGB.zip, or the folder EuroSAT_RGB, 2750 or their parent"
            )
        self.data_dir = data_dir
        label_of = {name: label for label, name in enumerate(self.classes)}
        self.labels = torch.tensor([label_of[folder] for folder in folders])

    def __len__(self) -> int:
        return len(self.names)

    def read_images(self, num_threads: int) -> Tensor:
        """Decode every picture, in the order of ``names``: uint8, RGB, shape (N, 3, H, W)."""
        starts = range(0, len(self), _CHUNK)
        with (
            _reader(self.data_dir) as read,
            ThreadPoolExecutor(max(1, num_threads)) as pool,
            tqdm(total=len(self), desc="reading EuroSAT", unit=" images", leave=False) as bar,
        ):
            first = self._decode(read, self.names[0])
            images = np.empty((len(self), *first.shape), np.uint8)

            def fill(start: int) -> int:
                for index, name in enumerate(self.names[start : start + _CHUNK], start):
                    image = self._decode(read, name)
                    if image.shape != first.shape:
                        raise UserError(
                            f"pictures of one size are needed: {name} has {image.shape[1:]} px, "
                            f"{self.names[0]} {first.shape[1:]}"
                        )
                    images[index] = image
                return min(_CHUNK, len(self) - start)

            for count in pool.map(fill, starts):
                bar.update(count)
        return torch.from_numpy(images)

    def splits(self, split_seed: int) -> dict[str, Tensor]:
        """Return the public split where its lists are at hand, else a stratified 60/20/20 one.

        Args:
            split_seed: Seed of the stratified split; the public one needs none.

        Returns:
            For each of ``SPLITS`` the positions of its pictures in ``names``, int64.
        """
        inside, beside = self.data_dir, self.data_dir.absolute().parent
        for container, folder in ((inside, self.root), (inside, ""), (beside, "")):
            lists = _read_lists(container, folder)
            if lists is not None:
                return _match_lists(lists, self.names, container)
        return stratified_split(self.labels, self.classes, split_seed)

    def _decode(self, read: Callable[[str], bytes], name: str) -> np.ndarray:
        """Decode one picture: uint8, shape (3, H, W)."""
        try:
            with Image.open(BytesIO(read(self.root + name))) as image:
                pixels, mode = np.asarray(image), image.mode
        except UNREADABLE as error:
            raise UserError(
                f"{name} in {self.data_dir} is not a readable picture: replace it"
            ) from error
        if mode != "RGB":
            raise UserError(f"{name} in {self.data_dir} is a picture of mode {mode}, not RGB")
        return pixels.transpose(2, 0, 1)


def fingerprint(names: Sequence[str], images: Tensor) -> str:
    """Identify a data set by the sha256 of its names and pixels."""
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(images.numpy().data)
    return digest.hexdigest()


def stratified_split(labels: Tensor, classes: Sequence[str], split_seed: int) -> dict[str, Tensor]:
    """Split every class 60/20/20, by the hash of (seed, label, position in ``labels``).

    A hash stays what it is from one version of a library to the next, unlike a shuffle.

    Args:
        labels: Label of every picture, int64, shape (N,).
        classes: Names of the labels, for the error.
        split_seed: Seed of the split.

    Returns:
        Sorted positions in ``labels`` for each of ``SPLITS``; together all of them.
    """
    keys = sample_keys(split_seed, labels, torch.arange(len(labels)))
    parts: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    for label, name in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        if len(members) < 5:
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

    Put them into or beside ``--data_dir`` and they act as the public lists; ``main_pretrain.py``
    takes them as ``--image_list``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, positions in splits.items():
        partial = folder / f".{split}.txt.partial"
        partial.write_text("".join(f"{names[index]}\n" for index in positions.tolist()))
        partial.replace(folder / f"{split}.txt")


def _list_paths(data_dir: Path) -> list[str]:
    """List relative paths that may be pictures, with ``/`` between folders."""
    if not data_dir.exists():
        raise UserError(f"--data_dir {data_dir} does not exist")
    if data_dir.is_dir():
        found = [path for root in ROOTS for path in data_dir.glob(f"{root}*/*")]
        return [path.relative_to(data_dir).as_posix() for path in found]
    try:
        with ZipFile(data_dir) as archive:
            return archive.namelist()
    except (BadZipFile, OSError) as error:
        raise UserError(f"--data_dir {data_dir} is neither a folder nor a whole zip") from error


def _class_files(paths: Sequence[str], root: str) -> Iterator[str]:
    """Yield ``<Class>/<file>`` of the pictures exactly one folder below ``root``."""
    for path in paths:
        parts = path.removeprefix(root).split("/")
        hidden = any(part.startswith((".", "__")) for part in parts)  # ._x.jpg, __MACOSX/
        picture = len(parts) == 2 and parts[1].lower().endswith(SUFFIXES)
        if path.startswith(root) and picture and not hidden:
            yield "/".join(parts)


@contextmanager
def _reader(data_dir: Path) -> Iterator[Callable[[str], bytes]]:
    """Yield a function that reads a member of a zip or a file of a folder, from any thread."""
    if data_dir.is_dir():
        yield lambda name: (data_dir / name).read_bytes()
    else:
        with ZipFile(data_dir) as archive:
            yield archive.read


def _read_lists(container: Path, folder: str) -> dict[str, list[str]] | None:
    """Read the lines of the three lists in one folder; None if it has none of them."""
    with _reader(container) as read:
        for prefix in LIST_PREFIXES:
            lists: dict[str, list[str]] = {}
            for split in SPLITS:
                try:
                    name = f"{folder}{prefix}{split}.txt"
                    text = read_list(read(name), container / name)
                except (KeyError, FileNotFoundError):
                    continue
                lists[split] = [line.strip() for line in text.splitlines() if line.strip()]
            missing = [f"{prefix}{split}.txt" for split in SPLITS if split not in lists]
            if lists and missing:
                raise UserError(
                    f"{container} has lists of a split, but no {missing[0]}: add it or take the "
                    "others away"
                )
            if lists:
                return lists
    return None


def _match_lists(
    lists: Mapping[str, Sequence[str]], names: Sequence[str], container: Path
) -> dict[str, Tensor]:
    """Find the pictures of each list, whatever their folder prefix and suffix, in its order."""
    known: dict[str, int | None] = {}
    for index, name in enumerate(names):
        path = PurePosixPath(name).with_suffix("")
        known[str(path)] = index
        known[path.name] = None if path.name in known else index  # None: more than one
    splits, missing, seen, repeated = {}, [], set(), []
    for split, lines in lists.items():
        positions = []
        for line in lines:
            path = PurePosixPath(line).with_suffix("")
            position = known.get("/".join(path.parts[-2:]), known.get(path.name))
            if position is None:
                missing.append(line)
            elif position in seen:
                repeated.append(line)
            else:
                seen.add(position)
                positions.append(position)
        if not lines:
            raise UserError(f"the list of the {split} split in {container} is empty")
        splits[split] = torch.tensor(positions, dtype=torch.int64)
    for problem, lines in (("not in the data", missing), ("listed twice", repeated)):
        if lines:
            raise UserError(
                f"{len(lines)} names of the split lists in {container} are {problem}, the first "
                f"is {lines[0]}: correct the lists or take them away"
            )
    return splits


def main(argv: Sequence[str] | None = None) -> None:
    """Write the lists of the split."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="EuroSAT: a zip or a folder")
    parser.add_argument("--save_path", type=Path, required=True, help="folder of the three lists")
    parser.add_argument("--split_seed", type=int, default=0, help="seed, if no lists are there yet")
    args = parser.parse_args(argv)
    dataset = EurosatDataset(args.data_dir)
    splits = dataset.splits(args.split_seed)
    write_split(args.save_path, dataset.names, splits)
    for split, positions in splits.items():
        print(f"{args.save_path / split}.txt: {len(positions)} images")


if __name__ == "__main__":
    run(main)
