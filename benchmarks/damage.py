"""Damage to data sets: each function changes one site of a copy whose files may be hard links."""

import shutil
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.io import MemoryFile

from datasets.archive import ZipFiles
from datasets.bigearthnet.lmdb_store import PatchLmdb
from datasets.checking.outlines import read_outline
from datasets.geotiff.reader import read_geotiff

Rng = np.random.Generator
Damage = Callable[[Path, Rng], None]
MISSING, CUT, FLIP, ZEROED = "missing file", "cut file", "changed bit", "zeroed band"
SIZE, TYPE, SWAPPED, TWICE = "wrong size", "wrong type", "swapped bands", "same content twice"
EXTRA, LABEL, LEAK, PLACE = "extra file", "missing or unknown label", "leaking split", "wrong place"
KINDS = (MISSING, CUT, FLIP, ZEROED, SIZE, TYPE, SWAPPED, TWICE, EXTRA, LABEL, LEAK, PLACE)


def of_rasters(pattern: str) -> dict[str, Damage]:
    """Return the damage that all folders of GeoTIFFs can have.

    Args:
        pattern: Glob of the files.
    """
    edits = {ZEROED: _zero, SIZE: _shrink, TYPE: _retype, PLACE: _move}
    damages = {kind: partial(_edit_one, pattern, edit) for kind, edit in edits.items()}
    return damages | of_files(pattern) | {SWAPPED: partial(_swap, pattern)}


def of_files(pattern: str) -> dict[str, Damage]:
    """Return the damage that any file can have; arguments as in ``of_rasters``."""
    return {
        MISSING: lambda root, rng: site_of(root, rng, pattern).unlink(),
        CUT: lambda root, rng: rewrite(site_of(root, rng, pattern), partial(cut, rng)),
        FLIP: lambda root, rng: rewrite(site_of(root, rng, pattern), partial(flip, rng)),
    }


def without_place(damages: dict[str, Damage]) -> dict[str, Damage]:
    """Leave out the place: no other file shows where a picture of EuroSAT is.

    Args:
        damages: Damage by kind.
    """
    return {kind: change for kind, change in damages.items() if kind != PLACE}


def zipped(damages: dict[str, Damage]) -> dict[str, Damage]:
    """Return damage of a folder that is zipped afterwards; a cut and a bit are of the zip itself.

    Args:
        damages: Damage of the folder.
    """

    def then_zip(before: Damage | None, after: Any, root: Path, rng: Rng) -> None:
        if before:
            before(root, rng)
        path = zip_of(root)
        if after:
            rewrite(path, partial(after, rng))

    return {
        kind: partial(
            then_zip,
            None if kind in (CUT, FLIP) else change,
            {CUT: cut, FLIP: flip}.get(kind),
        )
        for kind, change in damages.items()
    }


def zip_of(root: Path, *, again: bool = True) -> Path:
    """Return the zip of a folder, which is next to it.

    Args:
        root: The folder.
        again: Whether to write it.
    """
    path = root.parent / f"{root.name}.zip"
    if again:
        shutil.make_archive(str(root), "zip", root)
    return path


def is_harmless(damaged: Path, clean: Path) -> bool:
    """Return whether all values read as before a bit was changed.

    Args:
        damaged: Data set with the changed bit.
        clean: The folder without it.
    """
    if damaged.suffix == ".zip":
        try:
            return _members(damaged) == _members(zip_of(clean, again=False))
        except ValueError:
            return False
    if (damaged / "data.mdb").exists():
        return _bands(damaged) == _bands(clean)
    for path in filter(Path.is_file, clean.rglob("*.*")):
        old, new = path.read_bytes(), (damaged / path.relative_to(clean)).read_bytes()
        if old != new and path.suffix == ".jpg":
            with Image.open(BytesIO(old)) as one, Image.open(BytesIO(new)) as other:
                return one.tobytes() == other.tobytes()
        if old != new:
            return path.suffix == ".tif" and _values(old) == _values(new)
    return True


def _members(path: Path) -> dict[str, bytes]:
    files = ZipFiles(path)
    return {name: files.read(entry) for name, entry in files.members()}


def _bands(root: Path) -> dict[str, Any]:
    source = PatchLmdb(root)
    return {name: source.read_tensors(name) for name in source.names()}


def _values(data: bytes) -> tuple[bytes, Any]:
    pixels = read_geotiff(data, "", lambda *_: None)
    return pixels.tobytes(), read_outline(data, pixels.shape)


def site_of(root: Path, rng: Rng, pattern: str) -> Path:
    """Return a random file, or folder if the pattern ends in a slash.

    Args:
        root: Data set.
        rng: Source of random numbers.
        pattern: Glob.
    """
    found = sorted(path for path in root.glob(pattern) if path.is_dir() or "/" not in pattern[-1:])
    return found[rng.integers(len(found))]


def two_sites(root: Path, rng: Rng, pattern: str) -> tuple[Path, Path]:
    """Return two different ones; arguments as in ``site_of``."""
    found = sorted(root.glob(pattern))
    one, other = rng.choice(len(found), 2, replace=False)
    return found[one], found[other]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file again, under another inode.

    Args:
        path: The file.
        data: Its content.
    """
    path.unlink()  # the clean file may be the same inode
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the content of a file.

    Args:
        path: The file.
        change: Returns the new content for the old one.
    """
    replace_file(path, change(path.read_bytes()))


def cut(rng: Rng, data: bytes) -> bytes:
    """Return a part from the start on.

    Args:
        rng: Source of random numbers.
        data: Content of a file.
    """
    return data[: rng.integers(len(data))]


def flip(rng: Rng, data: bytes) -> bytes:
    """Return the content with a changed bit; arguments as in ``cut``."""
    at = int(rng.integers(8 * len(data)))
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def _edit_one(
    pattern: str,
    edit: Callable[[Rng, np.ndarray, dict[str, Any]], np.ndarray],
    root: Path,
    rng: Rng,
) -> None:
    """Change pixels or profile of a GeoTIFF, and write it again."""
    path = site_of(root, rng, pattern)
    with rasterio.open(path) as file:
        pixels, profile = file.read(), dict(file.profile)
    pixels = edit(rng, pixels, profile)
    profile |= {"height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype.name}
    for key in ("blockxsize", "blockysize", "tiled", "interleave"):
        profile.pop(key, None)
    if pixels.dtype != np.uint8 and profile.get("compress") == "jpeg":
        profile["compress"] = "deflate"
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(pixels)
        replace_file(path, memory.read())


def _zero(rng: Rng, pixels: np.ndarray, profile: dict[str, Any]) -> np.ndarray:
    pixels[rng.integers(len(pixels))] = 0
    return pixels


def _shrink(rng: Rng, pixels: np.ndarray, profile: dict[str, Any]) -> np.ndarray:
    return pixels[:, : -rng.integers(1, 4), :]


def _retype(rng: Rng, pixels: np.ndarray, profile: dict[str, Any]) -> np.ndarray:
    others = [np.uint8, np.int32, np.float64]
    if pixels.dtype == np.uint8:
        others = [np.uint16, np.int16, np.float32]
    return pixels.astype(others[rng.integers(3)])


def _move(rng: Rng, pixels: np.ndarray, profile: dict[str, Any]) -> np.ndarray:
    """Move a file by one to nine times its side, as if it were of another place."""
    sides = rng.integers(1, 10) * pixels.shape[1]
    a, b, c, d, e, f, *_ = profile["transform"]
    profile["transform"] = rasterio.Affine(a, b, c + sides * a, d, e, f)
    return pixels


def _swap(pattern: str, root: Path, rng: Rng) -> None:
    """Exchange two bands of one size, as files or as planes of a file."""
    path = site_of(root, rng, pattern)
    with rasterio.open(path) as file:
        count = file.count
    if count > 1:
        order = np.arange(count)
        pair = rng.choice(count, 2, replace=False)
        order[pair] = order[pair[::-1]]
        rewrite(path, partial(_reordered, order))
        return
    shapes = {}
    for other in sorted(path.parent.glob("*.tif")):
        with rasterio.open(other) as file:
            shapes[other] = file.shape
    others = [other for other in shapes if other != path and shapes[other] == shapes[path]]
    other = others[rng.integers(len(others))]
    one, two = path.read_bytes(), other.read_bytes()
    replace_file(path, two)
    replace_file(other, one)


def _reordered(order: np.ndarray, data: bytes) -> bytes:
    with MemoryFile(data) as memory, memory.open() as file:
        pixels, profile = file.read(), dict(file.profile)
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(pixels[order])
        return bytes(memory.read())


def add_to_list(style: str, end: str, root: Path, rng: Rng) -> None:
    """List a name in a second split.

    Args:
        style: Name of a list, with {} for the split.
        end: What is between two names.
        root: Data set.
        rng: Source of random numbers.
    """
    paths = [root / style.format(split) for split in ("train", "val", "test")]
    paths = [path for path in paths if path.exists() and path.read_text().strip()]
    one, other = rng.choice(len(paths), 2, replace=False)
    names = paths[one].read_text().replace(",", "\n").split()
    text = paths[other].read_text().rstrip()
    replace_file(paths[other], f"{text}{end}{names[rng.integers(len(names))]}\n".encode())
