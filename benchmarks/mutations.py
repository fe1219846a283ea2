"""Damage done to files of all kinds, as a function of a generator."""

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

Rng = np.random.Generator
Order = Literal["little", "big"]
# Where a number begins to be too large for something.
_NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 32, 255, 256, 1023, 10_980, 10_981, 16_384, 40_000, 65_535),
    *(65_536, 2**20, 2**24, 2**27, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, 1e308, -1e308),
    *(float("nan"), float("inf"), "", "x", "\x1b[2J", "../../etc/passwd", "\ud800", "a" * 10_000),
    *([], {}, [[]], [None], {"": None}, "2020-01-01", "1" * 5000, "/dev/zero"),
)


def damage(data: bytes, rng: Rng, others: Sequence[bytes] = ()) -> tuple[str, bytes]:
    """Damage a file, once or twice.

    Args:
        data: Content of a whole file, not empty.
        rng: Chooses everything.
        others: Whole files, of which parts are put into this one at times.

    Returns:
        What was done, and the damaged content.
    """
    kinds: list[Callable[[bytes, Rng], bytes]] = [_flip_bits, _cut, _fill, _move, _numbers]
    for start, change in _FORMATS.items():
        if data.startswith(start):
            kinds += [change] * 5  # as often as all others together
    if others and rng.random() < 0.05:
        other = others[int(rng.integers(len(others)))]
        at = int(rng.integers(min(len(data), len(other)) + 1))
        return "splice", data[:at] + other[at:]
    names, done = [], data
    for _ in range(1 + int(rng.integers(2))):
        kind = kinds[rng.integers(len(kinds))]
        names.append(kind.__name__.strip("_"))
        done = kind(done, rng) if done else done
    return " + ".join(names), done


def _flip_bits(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    end = len(data) if rng.random() < 0.5 else min(len(data), 512)  # or of the header
    for at in rng.integers(0, end, 2 ** int(rng.integers(6))):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] if rng.random() < 0.8 else data[at:]


def _fill(data: bytes, rng: Rng) -> bytes:
    at, size = int(rng.integers(len(data))), 2 ** int(rng.integers(10))
    content = rng.bytes(size) if rng.random() < 0.5 else bytes([int(rng.choice([0, 255]))]) * size
    return data[:at] + content + data[at + size * int(rng.integers(2)) :]


def _move(data: bytes, rng: Rng) -> bytes:
    start, size, to = (int(value) for value in rng.integers(0, len(data), 3))
    return data[:to] + data[start : start + size] + data[to:]


def _numbers(data: bytes, rng: Rng) -> bytes:
    """Put a number of 1, 2, 4 or 8 bytes anywhere, mostly near the beginning."""
    end = len(data) if rng.random() < 0.3 else min(len(data), 400)
    return _put(data, int(rng.integers(end)), 2 ** int(rng.integers(4)), rng)


def _put(data: bytes, at: int, size: int, rng: Rng, order: Order | None = None) -> bytes:
    number = int(rng.choice(_NUMBERS)) if rng.random() < 0.8 else int(rng.integers(2**32))
    number &= 2 ** (8 * size) - 1
    order = order or ("little", "big")[int(rng.integers(2))]
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def _tiff_entry(data: bytes, rng: Rng) -> bytes:
    """Change tag, type, count or value of an entry of the first directory."""
    order: Order = "big" if data[:1] == b"M" else "little"
    big = data[2:4] in (b"+\0", b"\0+")
    at = int.from_bytes(data[8:16] if big else data[4:8], order)
    count = int.from_bytes(data[at : at + (8 if big else 2)], order)
    if not 0 < count < 200:
        return _numbers(data, rng)
    entry = at + (8 if big else 2) + int(rng.integers(count)) * (20 if big else 12)
    word = 8 if big else 4
    offset, size = [(0, 2), (2, 2), (4, word), (4 + word, word)][rng.integers(4)]
    if offset == 2:  # types are from 1 to 18
        return data[: entry + 2] + int(rng.integers(20)).to_bytes(2, order) + data[entry + 4 :]
    if offset > 4 and rng.random() < 0.5:  # a short, in the first half of the value
        size = 2
    return _put(data, entry + offset, size, rng, order)


def _png_chunk(data: bytes, rng: Rng) -> bytes:
    """Change a chunk's content, name or length, or repeat it; its checksum fits again."""
    at, chunks = 8, []
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return _numbers(data, rng)
    number = 0 if rng.random() < 0.4 else int(rng.integers(len(chunks)))
    name, content = chunks[number]
    way = int(rng.integers(6))
    if way < 3 and content:
        at = int(rng.integers(len(content)))
        content = _put(content, at, 1, rng) if way else _put(content, at & ~3, 4, rng, "big")
    elif way == 3:
        names = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"zTXt", b"iCCP", b"eXIf", b"acTL")
        name = names[rng.integers(len(names))]
    elif way == 4:
        chunks.insert(int(rng.integers(len(chunks))), chunks[number])
    else:
        content = content[: int(rng.integers(len(content) + 1))]
    chunks[number] = (name, content)
    return data[:8] + png_chunks(chunks)


def png_chunks(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode the chunks of a PNG, with checksums that fit.

    Args:
        chunks: Name and content of each.
    """
    checked = [(len(c), n + c, zlib.crc32(n + c)) for n, c in chunks]
    return b"".join(struct.pack(f">L{len(c)}sL", size, c, crc) for size, c, crc in checked)


def _jpeg_marker(data: bytes, rng: Rng) -> bytes:
    """Change the length, the kind or a byte of a segment, mostly of the frame's header."""
    at, found = 2, []
    while at + 4 <= len(data) and data[at] == 0xFF:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((at, size))
        if data[at + 1] == 0xDA:
            break
        at += 2 + size
    if not found:
        return _numbers(data, rng)
    frames = [each for each in found if 0xC0 <= data[each[0] + 1] <= 0xC2]
    at, size = (frames or found)[0] if rng.random() < 0.4 else found[rng.integers(len(found))]
    way = int(rng.integers(4))
    if way == 0:
        return _put(data, at + 2, 2, rng, "big")
    if way == 1:
        return data[: at + 1] + bytes([int(rng.integers(0xC0, 256))]) + data[at + 2 :]
    return _put(data, at + 4 + int(rng.integers(max(1, size - 2))), way - 1, rng, "big")


def _zip_field(data: bytes, rng: Rng) -> bytes:
    """Put a number near a signature: of a member, an entry of the directory, or its end."""
    starts = [match.start() for match in re.finditer(rb"PK[\1\3\5\6][\2\4\6\7]", data)]
    if not starts:
        return _numbers(data, rng)
    at = starts[rng.integers(len(starts))] if rng.random() < 0.6 else starts[-1]
    return _put(data, at + int(rng.integers(48)), 2 ** int(rng.integers(4)), rng, "little")


def _lmdb_page(data: bytes, rng: Rng) -> bytes:
    """Put a number into the head or the first nodes of a page, or into the first node itself."""
    page = 4096 * int(rng.integers(max(1, len(data) // 4096)))
    at = page + 2 * int(rng.integers(48))
    if rng.random() < 0.5:
        at = page + int.from_bytes(data[page + 16 : page + 18], "little") + int(rng.integers(60))
    return _put(data, min(at, len(data) - 1), 2 ** int(rng.integers(4)), rng, "little")


_FORMATS: dict[bytes, Callable[[bytes, Rng], bytes]] = {
    b"II*\0": _tiff_entry,
    b"MM\0*": _tiff_entry,
    b"II+\0": _tiff_entry,
    b"\x89PNG": _png_chunk,
    b"\xff\xd8\xff": _jpeg_marker,
    b"PK": _zip_field,
    bytes(10) + b"\x08\0": _lmdb_page,  # the flag of a page about the file
}


def damage_json(data: bytes, rng: Rng) -> tuple[str, bytes]:
    """Replace, remove, repeat or wrap one node of a JSON text; return what was done, and the text.

    Args:
        data: Content of a whole file.
        rng: Chooses everything.
    """
    root = json.loads(data)
    nodes: list[tuple[Any, Any]] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            nodes.append((node, key))
            waiting += [node[key]] if isinstance(node[key], dict | list) else []
    node, key = nodes[rng.integers(len(nodes))]
    shown, way = f"{str(key)[:20]} of {type(node).__name__}", int(rng.integers(8))
    if way == 0:
        del node[key]
    elif way == 1:
        node[key] = [node[key]]
    elif way == 2:
        node[key] = str(node[key])
    elif way == 3 and isinstance(node, list):
        node.append(node[key])
    else:
        node[key] = _VALUES[rng.integers(len(_VALUES))]
    nested = '{"a":' * 100_000 if rng.random() < 0.02 else ""
    return f"{shown}, way {way}", (nested + json.dumps(root)).encode()


def damage_lines(data: bytes, rng: Rng) -> tuple[str, bytes]:
    """Replace, remove or repeat a cell or a line of a text; return what was done, and the text.

    Args:
        data: Content of a whole file.
        rng: Chooses everything.
    """
    lines = data.split(b"\n")
    at, way = int(rng.integers(len(lines))), int(rng.integers(6))
    value = str(_VALUES[rng.integers(len(_VALUES))]).encode(errors="surrogatepass")
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(int(rng.integers(len(lines))), lines[at])
    elif way == 2:
        lines[at] = value
    else:
        cells = lines[at].split(b",")
        cells[rng.integers(len(cells))] = value
        lines[at] = b",".join(cells)
    return f"line {at}, way {way}", b"\n".join(lines)
