"""Check the pages of an LMDB, whose library follows numbers in the file without a check.

A damaged one would end the process with SIGSEGV or SIGBUS. The format is that of data version 1:
mdb.c of LMDB 0.9, structures MDB_meta, MDB_db, MDB_page and MDB_node, with 64-bit numbers.
"""

import os
import struct
from pathlib import Path

import numpy as np

from utils.files import open_regular

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEAD = 16  # bytes of a page before its content
# MDB_meta: magic, version, address, size of the map; then MDB_db of free pages and of the data.
_META = struct.Struct("<II8xQ")
_DB = struct.Struct("<IHH3QQQ")  # page size or 0, flags, depth, three counts, entries, root
_META_TAIL = struct.Struct("<QQ")  # last page, number of the transaction
_NO_ROOT = 2**64 - 1
_BRANCH, _LEAF, _DIRTY = 1, 2, 16  # flags of a page
_BIG = 1  # flag of a node whose value has pages of its own
_LONGEST_KEY = 511
_MOST_LEVELS = 32  # CURSOR_STACK


def check_pages(path: Path) -> None:
    """Follow all pages of the data in a file.

    Args:
        path: ``data.mdb`` of an environment with one database, without duplicate keys.

    Raises:
        ValueError: A number would lead out of the file or a page, or is of another format.
    """
    with open_regular(path) as file:
        try:
            _check(file.fileno(), os.fstat(file.fileno()).st_size)
        except (struct.error, IndexError) as error:
            raise ValueError("an incomplete page") from error


def _check(descriptor: int, size: int) -> None:
    (page_bytes, *_), first = _read_meta(descriptor, 0)
    if page_bytes & (page_bytes - 1) or not 512 <= page_bytes <= 2**16:
        raise ValueError("no size of a page")
    (again, *_), second = _read_meta(descriptor, page_bytes)
    data, last_page, _ = max(first, second, key=lambda meta: meta[2])  # the newest transaction
    _, flags, depth, *_, root = data
    if again != page_bytes or flags or depth > _MOST_LEVELS:
        raise ValueError("another kind of database")
    num_pages = last_page + 1
    if num_pages * page_bytes > size:
        raise ValueError(f"{size:,} bytes instead of {num_pages * page_bytes:,}")
    if root == _NO_ROOT:
        return
    seen = np.zeros(num_pages, bool)
    level = np.array([root], np.uint64)
    for below in reversed(range(depth)):
        if (level < 2).any() or (level >= num_pages).any() or seen[level].any():
            raise ValueError("a page out of place")
        seen[level] = True
        if len(np.unique(level)) < len(level):
            raise ValueError("a page in two places")
        pages = (os.pread(descriptor, page_bytes, int(n) * page_bytes) for n in level)
        if below:
            level = np.concatenate([_children(page) for page in pages])
        else:
            for page in pages:
                _check_leaf(page, num_pages, page_bytes)
    if depth == 0:
        raise ValueError("a root without a level")


def _read_meta(
    descriptor: int, at: int
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], int, int]]:
    """Return the database of free pages; that of the data, the last page, the transaction."""
    meta = os.pread(descriptor, 152, at)[_HEAD:]
    magic, version, _ = _META.unpack_from(meta)
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("not an LMDB of version 0.9")
    free, data = (_DB.unpack_from(meta, _META.size + _DB.size * number) for number in (0, 1))
    last_page, transaction = _META_TAIL.unpack_from(meta, _META.size + 2 * _DB.size)
    return free, (data, last_page, transaction)


def _nodes(page: bytes, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the nodes of a page, and their four 16-bit numbers: (N, 4)."""
    _, flags, lower = struct.unpack_from("<10sHH", page)
    count = (lower - _HEAD) // 2
    if flags & ~_DIRTY != kind or not count > 0 or lower > len(page):
        raise ValueError("another kind of page")
    at = np.frombuffer(page, "<u2", count, _HEAD).astype(np.int64)
    if (at % 2).any() or (at < lower).any() or (at > len(page) - 8).any():
        raise ValueError("a node out of its page")
    fields = np.frombuffer(page, "<u2")[at[:, None] // 2 + range(4)].astype(np.uint64)
    ends = at + 8 + fields[:, 3].astype(np.int64)
    if (ends > len(page)).any() or fields[:, 3].max() > _LONGEST_KEY:
        raise ValueError("a key out of its page")
    return at, fields


def _children(page: bytes) -> np.ndarray:
    at, fields = _nodes(page, _BRANCH)
    if len(at) < 2:
        raise ValueError("a branch with one child")
    return fields[:, 0] | fields[:, 1] << np.uint64(16) | fields[:, 2] << np.uint64(32)


def _check_leaf(page: bytes, num_pages: int, page_bytes: int) -> None:
    at, fields = _nodes(page, _LEAF)
    is_big = fields[:, 2] == _BIG
    if not (is_big | (fields[:, 2] == 0)).all() or not fields[:, 3].all():
        raise ValueError("a node of another kind")
    sizes = (fields[:, 0] | fields[:, 1] << np.uint64(16)).astype(np.int64)
    begin = at + 8 + fields[:, 3].astype(np.int64)
    if (begin + np.where(is_big, 8, sizes) > page_bytes).any():
        raise ValueError("a value out of its page")
    starts = np.frombuffer(page, np.uint8)[begin[is_big, None] + range(8)].view("<u8")[:, 0]
    pages = (-(-(_HEAD + sizes[is_big]) // page_bytes)).astype(np.uint64)
    if (starts < 2).any() or (starts >= num_pages).any() or (starts + pages > num_pages).any():
        raise ValueError("a value out of the file")
