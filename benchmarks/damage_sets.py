"""Damage that depends on the data set; see ``damage.py``."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import load, save

from benchmarks.damage import (
    CUT,
    EXTRA,
    FLIP,
    LABEL,
    LEAK,
    MISSING,
    SIZE,
    SWAPPED,
    TWICE,
    TYPE,
    ZEROED,
    Damage,
    Rng,
    add_to_list,
    cut,
    flip,
    of_files,
    replace_file,
    rewrite,
    site_of,
    two_sites,
)

Rows = list[dict[str, Any]]


def of_seco() -> dict[str, Damage]:
    """Return the damage of places."""

    def repeat(root: Path, rng: Rng) -> None:
        one, other = two_sites(root, rng, "*/*/")
        for path in one.glob("*.tif"):
            replace_file(other / path.name, path.read_bytes())

    def add(root: Path, rng: Rng) -> None:
        date = site_of(root, rng, "*/*/")
        where = (date / "copy of B4.tif", date / "B10.tif", date.parent / "x.bin", root / "x.tif")
        where[rng.integers(4)].write_bytes(b"x")

    return {TWICE: repeat, EXTRA: add}


def of_bigearthnet() -> dict[str, Damage]:
    """Return the damage of patches of version 1, their labels and lists."""

    def repeat(root: Path, rng: Rng) -> None:
        one, other = two_sites(root, rng, "*/*/")
        for path in one.glob("*.tif"):
            target = path.name.replace(one.name, other.name)
            replace_file(other / target, path.read_bytes())

    def add(root: Path, rng: Rng) -> None:
        patch = site_of(root, rng, "*/*/")
        where = (patch / "B02.tif", patch / "notes.txt", patch.parent / "x.tif")
        where[rng.integers(3)].write_bytes(b"x")

    def label(root: Path, rng: Rng) -> None:
        path = site_of(root, rng, "*/*/*.json")
        content = json.loads(path.read_text())
        if rng.random() < 0.3:
            path.unlink()
        else:
            labels = [[], ["Pasture"]][rng.integers(2)]
            replace_file(path, json.dumps(content | {"labels": labels}).encode())

    return {
        TWICE: repeat,
        EXTRA: add,
        LABEL: label,
        LEAK: partial(add_to_list, "bigearthnet-{}.txt", "\n"),
    }


def of_eurosat(suffix: str) -> dict[str, Damage]:
    """Return the damage of pictures in folders of classes, and of lists.

    Args:
        suffix: Suffix of the pictures.
    """

    def repeat(root: Path, rng: Rng) -> None:
        one, other = two_sites(root, rng, f"*/*{suffix}")
        replace_file(other, one.read_bytes())

    def add(root: Path, rng: Rng) -> None:
        folder = site_of(root, rng, "*/")
        (folder / ("notes.txt", "Thumbs.db", "x.npy")[rng.integers(3)]).write_bytes(b"x")

    def label(root: Path, rng: Rng) -> None:
        one, other = two_sites(root, rng, f"*/*{suffix}")
        folder = (root, root / "Unknown", other.parent)[rng.integers(3)]
        folder.mkdir(exist_ok=True)
        if folder == one.parent:
            folder = root
        one.rename(folder / one.name)

    return {TWICE: repeat, EXTRA: add, LABEL: label, LEAK: partial(add_to_list, "{}.txt", "\n")}


def of_pictures() -> dict[str, Damage]:
    """Return the damage of EuroSAT's RGB pictures."""

    def edit(change: Callable[[Rng, np.ndarray], np.ndarray], root: Path, rng: Rng) -> None:
        path = site_of(root, rng, "*/*.jpg")
        with Image.open(path) as image:
            pixels = change(rng, np.asarray(image).copy())
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        replace_file(path, file.getvalue())

    def zero(rng: Rng, pixels: np.ndarray) -> np.ndarray:
        pixels[..., rng.integers(3)] = 0
        return pixels

    def grey(rng: Rng, pixels: np.ndarray) -> np.ndarray:
        return pixels[..., rng.integers(3)]

    return {
        **of_files("*/*.jpg"),
        **of_eurosat(".jpg"),
        ZEROED: partial(edit, zero),
        SIZE: partial(edit, lambda rng, pixels: pixels[: -rng.integers(1, 20)]),
        TYPE: partial(edit, grey),
        SWAPPED: partial(edit, lambda _, pixels: pixels[..., ::-1]),
    }


def of_oscd() -> dict[str, Damage]:
    """Return the damage of cities, their change maps and lists."""

    def repeat(root: Path, rng: Rng) -> None:
        one, other = two_sites(root, rng, "*/imgs_*_rect/")
        for path in one.glob("*.tif"):
            replace_file(other / path.name, path.read_bytes())

    def add(root: Path, rng: Rng) -> None:
        folder = site_of(root, rng, "*/imgs_*_rect/")
        (folder / ("B02 copy.tif", "x.bin", "B8.tif")[rng.integers(3)]).write_bytes(b"x")

    def label(root: Path, rng: Rng) -> None:
        folder = site_of(root, rng, "*/cm/")
        if rng.random() < 0.5:
            shutil.rmtree(folder)
            return
        path = folder / "cm.png"
        with Image.open(path) as image:
            pixels = np.asarray(image).copy()
        pixels[:9, :9] = 7
        path.unlink()
        Image.fromarray(pixels).save(path)

    return {TWICE: repeat, EXTRA: add, LABEL: label, LEAK: partial(add_to_list, "{}.txt", ",")}


def of_lmdb() -> dict[str, Damage]:
    """Return the damage of an LMDB of patches and its metadata."""

    def edit(change: Callable[[Rng, dict[str, np.ndarray]], object], root: Path, rng: Rng) -> None:
        def on_value(value: bytes) -> bytes:
            bands = load(value)
            change(rng, bands)
            return save(bands)

        _edit_values(root, rng, on_value)

    def zero(rng: Rng, bands: dict[str, np.ndarray]) -> None:
        bands[_any(rng, bands)][:] = 0

    def shrink(rng: Rng, bands: dict[str, np.ndarray]) -> None:
        key = _any(rng, bands)
        bands[key] = bands[key][:-1].copy()

    def retype(rng: Rng, bands: dict[str, np.ndarray]) -> None:
        key = _any(rng, bands)
        bands[key] = bands[key].astype((np.int16, np.float32, np.uint8)[rng.integers(3)])

    def swap(rng: Rng, bands: dict[str, np.ndarray]) -> None:
        shape = bands[_any(rng, bands)].shape
        same = sorted(band for band in bands if bands[band].shape == shape)
        one, other = rng.choice(same, 2, replace=False)
        bands[one], bands[other] = bands[other], bands[one]

    def drop(rng: Rng, bands: dict[str, np.ndarray]) -> None:
        del bands[_any(rng, bands)]

    def add(root: Path, rng: Rng) -> None:
        with _transaction(root) as transaction:
            transaction.put(f"note {rng.integers(99)}".encode(), b"x")

    def repeat(root: Path, rng: Rng) -> None:
        with _transaction(root) as transaction:
            keys = sorted(map(bytes, transaction.cursor().iternext(values=False)))
            one, other = rng.choice(len(keys), 2, replace=False)
            transaction.put(keys[one], bytes(transaction.get(keys[other], b"")))

    def metadata(
        change: Callable[[Rng, list[dict[str, Any]]], object], root: Path, rng: Rng
    ) -> None:
        path = root / "metadata.parquet"
        rows = pq.read_table(path).to_pylist()
        change(rng, rows)
        pq.write_table(pa.Table.from_pylist(rows), path)

    def label(rng: Rng, rows: Rows) -> None:
        rows[rng.integers(len(rows))]["labels"] = [[], ["Pasture"]][rng.integers(2)]

    def leak(rng: Rng, rows: Rows) -> None:
        row = rows[rng.integers(len(rows))]
        others = {"train", "validation", "test"} - {row["split"]}
        rows.append(row | {"split": sorted(others)[rng.integers(2)]})

    return {
        MISSING: partial(edit, drop),
        CUT: lambda root, rng: rewrite(root / "data.mdb", partial(cut, rng)),
        FLIP: lambda root, rng: _edit_values(root, rng, partial(flip, rng)),
        **{ZEROED: partial(edit, zero), SIZE: partial(edit, shrink), TYPE: partial(edit, retype)},
        **{SWAPPED: partial(edit, swap), TWICE: repeat, EXTRA: add},
        **{LABEL: partial(metadata, label), LEAK: partial(metadata, leak)},
    }


def of_store() -> dict[str, Damage]:
    """Return the damage of a packed store: 12 bands of 96 px."""
    pattern, plane = "*.u8", 96 * 96

    def planes(change: Callable[[Rng, np.ndarray], object], root: Path, rng: Rng) -> None:
        path = site_of(root, rng, pattern)
        rows = np.fromfile(path, np.uint8).reshape(-1, plane)
        change(rng, rows)
        replace_file(path, rows.tobytes())

    def zero(rng: Rng, rows: np.ndarray) -> None:
        rows[rng.integers(len(rows))] = 0

    def exchange(rng: Rng, rows: np.ndarray) -> None:
        pair = rng.choice(len(rows), 2, replace=False)
        rows[pair] = rows[pair[::-1]]

    def repeat(rng: Rng, rows: np.ndarray) -> None:
        one, other = rng.choice(len(rows), 2, replace=False)
        rows[one] = rows[other]

    return {
        **of_files(pattern),
        ZEROED: partial(planes, zero),
        SIZE: lambda root, rng: rewrite(site_of(root, rng, pattern), lambda data: data + b"\0"),
        SWAPPED: partial(planes, exchange),
        TWICE: partial(planes, repeat),
        EXTRA: lambda root, rng: (root / f"rgb-{rng.integers(1, 99):05}.u8").touch(),
    }


def of_litdata() -> dict[str, Damage]:
    """Return the damage of LitData chunks."""

    def add(root: Path, rng: Rng) -> None:
        (root / f"chunk-{rng.integers(1, 9)}-0.bin").write_bytes(b"x")

    return of_files("*.bin") | {EXTRA: add}


def _any(rng: Rng, bands: dict[str, np.ndarray]) -> str:
    return sorted(bands)[rng.integers(len(bands))]


def _edit_values(root: Path, rng: Rng, change: Callable[[bytes], bytes]) -> None:
    """Change the value of one key."""
    with _transaction(root) as transaction:
        keys = sorted(map(bytes, transaction.cursor().iternext(values=False)))
        key = keys[rng.integers(len(keys))]
        transaction.put(key, change(bytes(transaction.get(key, b""))))


@contextmanager
def _transaction(root: Path) -> Iterator[lmdb.Transaction]:
    """Open an LMDB for writing, and close it."""
    with (
        lmdb.open(str(root), map_size=2**28, lock=False) as store,
        store.begin(write=True) as begun,
    ):
        yield begun
