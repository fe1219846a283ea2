"""Small files that decode to gigabytes, and files that have no end, through every reader."""

import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rasterio.io import MemoryFile

from benchmarks.mutations import png_chunks
from benchmarks.reliability_files import Case, failure_of, image_cases
from benchmarks.reliability_tables import table_cases
from benchmarks.trials import Attempt, Trial, in_children

_SPARSE_BYTES = 3 * 2**30


def bombs(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Read a file that decodes to much more than its size, for each trial.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial, at most that of all files and readers.
        folder: Scratch folder.
    """
    readers, tables = image_cases(folder / "images"), table_cases(folder / "tables")
    trials = [(bomb, name, case) for bomb in _IMAGES for name, case in readers.items()]
    by_name = {case.path.name: case for case in tables}
    trials += [(bomb, name, by_name[name]) for name, made in _TABLES.items() for bomb in made]
    makers = _IMAGES | {bomb: make for made in _TABLES.values() for bomb, make in made.items()}

    def attempt(number: int) -> Attempt:
        bomb, name, case = trials[number]
        return f"{bomb}, {name}", lambda: failure_of(name, case, makers[bomb]())

    yield from in_children(attempt, start, min(stop, len(trials)))


def endless(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Put a pipe, a device, a socket, a folder or 3 GB in the place of a file, for each trial.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial, at most that of all kinds and readers.
        folder: Scratch folder.
    """
    readers, tables = image_cases(folder / "images"), table_cases(folder / "tables")
    # Three are not read from the disk, but by the benchmark.
    places = [case for name, case in readers.items() if name not in ("SeCo zip", "catalogue")]
    places += [case for case in dict.fromkeys(tables) if case.path.parent.name != "answers"]
    trials = [(kind, case) for case in places for kind in _KINDS]

    def attempt(number: int) -> Attempt:
        kind, case = trials[number]
        return f"{kind}, {case.path.relative_to(folder)}", partial(_replaced, kind, case)

    yield from in_children(attempt, start, min(stop, len(trials)))


def _replaced(kind: str, case: Case) -> str | None:
    """Read a case whose file is of another kind; restore the file."""
    kept = case.path.with_name(".kept")
    case.path.replace(kept)
    try:
        _KINDS[kind](case.path)
        return failure_of(kind, case, None)
    finally:
        if case.path.is_dir():
            case.path.rmdir()
        case.path.unlink(missing_ok=True)
        kept.replace(case.path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_SPARSE_BYTES)


_KINDS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "folder": Path.mkdir,
    "3 GB": _sparse_file,
}


def _tiff(count: int, side: int, dtype: str, **options: Any) -> bytes:
    """Declare an image without storing its pixels."""
    size = {"count": count, "height": side, "width": side, "dtype": dtype}
    with MemoryFile() as memory:
        memory.open(driver="GTiff", **size, sparse_ok=True, **options).close()
        return bytes(memory.read())


def _one_strip(dtype: str, predictor: int) -> bytes:
    """Store a whole tile of zeros in one strip, by Deflate."""
    side, item = 10_980, np.dtype(dtype).itemsize
    packer, pixels = zlib.compressobj(1), io.BytesIO()
    for _ in range(side):
        pixels.write(packer.compress(bytes(side * item)))
    pixels.write(packer.flush())
    strip = pixels.getvalue()
    tags = {256: side, 257: side, 258: 8 * item, 259: 8, 262: 1, 273: 200, 277: 1, 278: side}
    tags |= {279: len(strip), 284: 1, 317: predictor, 339: 1}
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return head.ljust(200, b"\0") + strip


def _png(side: int, kind: int = 2, *more: tuple[bytes, bytes], complete: bool = False) -> bytes:
    """Write a PNG of black pixels, or of the beginning of their first row."""
    row = bytes(1 + side * (3 if kind == 2 else 1))
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(side if complete else 1)) + packer.flush()
    head = struct.pack(">2L5B", side, side, 8, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + png_chunks(chunks)


def _jpeg(side: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), 99).save(buffer, "JPEG", **options)
    return buffer.getvalue()


_ZEROS = zlib.compress(bytes(2**30), 1)
_IMAGES: dict[str, Callable[[], bytes]] = {
    "TIFF, 40,000 px": partial(_tiff, 1, 40_000, "uint8", compress="lzw"),
    "TIFF, 10,980 px of uint8": partial(_tiff, 1, 10_980, "uint8", compress="lzw"),
    "TIFF, 10,980 px of uint16": partial(_tiff, 1, 10_980, "uint16", compress="zstd"),
    "TIFF, 10,980 px of complex128": partial(_tiff, 1, 10_980, "complex128"),
    "TIFF, 8,000 px of float32": partial(_tiff, 1, 8000, "float32", compress="deflate"),
    "TIFF, 8,000 px of RGB": partial(
        _tiff, 3, 8000, "uint8", photometric="RGB", interleave="pixel"
    ),
    "TIFF, 8,000 px of 13 bands": partial(_tiff, 13, 8000, "uint16", compress="lzw"),
    "TIFF, a block of 65,536 px": partial(
        _tiff, 1, 64, "uint8", tiled=True, blockxsize=65_536, blockysize=65_536
    ),
    "TIFF, one strip of uint16": partial(_one_strip, "uint16", 2),
    "TIFF, one strip of uint8": partial(_one_strip, "uint8", 1),
    "PNG, 50,000 px": partial(_png, 50_000),
    "PNG, 8,192 px, whole": partial(_png, 8192, complete=True),
    "PNG, a profile of 1 GB": lambda: _png(48, 2, (b"iCCP", b"x\0\0" + _ZEROS)),
    "PNG, a text of 1 GB": lambda: _png(48, 2, (b"zTXt", b"x\0\0" + _ZEROS)),
    "JPEG, 13,000 px": partial(_jpeg, 13_000),
    "JPEG, 8,192 px, progressive": partial(_jpeg, 8192, progressive=True),
}


def _zip_of(size: int, declared: int | None = None) -> bytes:
    """Put a member of zeros in a zip, with another size in its records."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("0/20200101T101010_0_T0/B4.tif", "w") as member,
    ):
        for _ in range(size // 2**20):
            member.write(bytes(2**20))
    data = buffer.getvalue()
    return data.replace(struct.pack("<I", size), struct.pack("<I", declared or size))


def _parquet(num_rows: int, text: str) -> bytes:
    """Repeat a row, which takes next to no space."""
    rows = pa.array(np.zeros(num_rows, np.int32))
    names, split = (pa.DictionaryArray.from_arrays(rows, [each]) for each in (text, "train"))
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32))
    labels = pa.ListArray.from_arrays(offsets, pa.DictionaryArray.from_arrays(rows, ["Pastures"]))
    table = pa.table({"patch_id": names, "labels": labels, "split": split})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


_TABLES: dict[str, dict[str, Callable[[], bytes]]] = {
    "seco.zip": {
        "zip, a member of 2 GB": partial(_zip_of, 2**31 - 2**20),
        "zip, a member of 2 GB that says 1 MB": partial(_zip_of, 2**31 - 2**20, 2**20),
    },
    "metadata.parquet": {
        "parquet, 5,000,000 rows": partial(_parquet, 5_000_000, "x"),
        "parquet, 20,000 rows of 100 kB": partial(_parquet, 20_000, "x" * 100_000),
    },
    "manifest.json": {
        "JSON, 100,000 levels": lambda: b"[" * 100_000,
    },
}
