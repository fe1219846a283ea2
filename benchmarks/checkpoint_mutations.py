"""Damage to checkpoints and encoders: bytes, records of the zip, and values in the pickle."""

import copy
import io
import random
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.torch_files import save_torch_file

MISSING = object()
_DEEP = (100, 1_000, 20_000, 100_000, 400_000)  # levels of nesting


def damaged_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Change, remove, insert or exchange bytes.

    Args:
        content: A whole file.
        rng: Chooses everything.

    Returns:
        What was done, and the damaged content.
    """
    data, size = bytearray(content), len(content)
    near_end = rng.random() < 0.3  # there is the directory of a zip
    at = rng.randrange(max(0, size - 4_000) if near_end else 0, size)
    length = min(2 ** rng.randrange(20), size - at)
    kind = rng.choice(("flip", "flips", "zeros", "ones", "cut", "remove", "insert", "exchange"))
    if kind.startswith("flip"):
        for _ in range(1 if kind == "flip" else rng.randrange(2, 20)):
            data[at] ^= 1 << rng.randrange(8)
            at = rng.randrange(size)
    elif kind in ("zeros", "ones"):
        data[at : at + length] = (b"\0" if kind == "zeros" else b"\xff") * length
    elif kind == "cut":
        del data[at:]
    elif kind == "remove":
        del data[at : at + length]
    elif kind == "insert":
        data[at:at] = rng.randbytes(min(length, 4096))
    else:
        other = rng.randrange(size - length + 1)
        first, second = bytes(data[at : at + length]), bytes(data[other : other + length])
        data[at : at + length], data[other : other + length] = second, first
    return f"{kind} at {at}", bytes(data)


def damaged_zip(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Write the records of a zip again: exchanged, renamed, twice, missing, added or compressed.

    Args:
        content: A whole file; its comment is kept, as programs do.
        rng: Chooses everything.

    Returns:
        What was done, and the damaged content.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
        comment = archive.comment
    kinds = ("exchange", "rename", "twice", "missing", "added", "compressed", "case", "second root")
    kind, at, level = rng.choice(kinds), rng.randrange(len(records)), zipfile.ZIP_STORED
    name, data = records[at]
    if kind == "exchange":
        alike = [i for i, (_, other) in enumerate(records) if len(other) == len(data) and i != at]
        other = rng.choice(alike or [at - 1])
        records[at], records[other] = (name, records[other][1]), (records[other][0], data)
    elif kind == "rename":
        new = rng.choice(
            ("archive/x", "data.pkl", "archive/data.pkl", "../x", f"{name}\0", "a/b/c")
        )
        records[at] = (new, data)
    elif kind == "twice":
        records.insert(rng.randrange(len(records) + 1), (name, rng.choice((data, b"N.", b""))))
    elif kind == "missing":
        del records[at]
    elif kind == "added":
        new = rng.choice(
            ("archive/extra", "archive/y/data.pkl", "archive/constants.pkl", "b/data.pkl")
        )
        records.insert(rng.randrange(len(records) + 1), (new, b"N."))
    elif kind == "compressed":
        level = zipfile.ZIP_DEFLATED
    elif kind == "case":
        records[at] = (name.upper(), data)
    else:
        records = [(f"b/{name}", b"N.") for name in ("data.pkl", "version")] + records
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", level) as archive:
        warnings.simplefilter("ignore")  # of a name that is there already
        for record in records:
            archive.writestr(*record)
        archive.comment = comment
    return f"{kind} {name!r}", buffer.getvalue()


def fields(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the keys to every value of nested containers, and the value.

    Args:
        value: The container.
        keys: Keys to it.
    """
    if keys:
        yield keys, value
    inner: Any = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, each in inner:
        yield from fields(each, (*keys, key))


def wrong_values(value: Any) -> list[Any]:
    """Return values of other types, shapes and ranges in the place of one.

    Args:
        value: Value of a checkpoint.
    """
    endless: list[Any] = []
    endless.append(endless)
    wrong: list[Any] = [MISSING, None, "abc", "\x1b[2J", {"a": 1}, {"get": 1}, [1], endless]
    wrong += [-3, 10**30, 1.5, torch.zeros(2), torch.tensor(torch.nan), (1, (2,))]
    if isinstance(value, Tensor):
        other = value.int() if value.is_floating_point() else value.float()
        wrong += [value[None], torch.zeros(0), other, torch.full_like(value.float(), torch.nan)]
        if value.is_floating_point() and value.numel():
            one = value.clone()
            one[(-1,) * one.ndim] = torch.nan
            wrong += [torch.full_like(value, torch.inf), one]
        else:
            wrong.append(torch.full_like(value, -3))
    elif isinstance(value, bool):
        wrong += [not value]
    elif isinstance(value, int):
        wrong += [value + 1, value - 1, float(value), True]
    elif isinstance(value, float):
        wrong += [float("nan"), float("inf"), -1.0, 1e300]
    elif isinstance(value, dict):
        wrong += [{}, value | {"step": 5, 77: 5}, value | {"__class__": 1}]
    elif isinstance(value, list):
        wrong += [[], value + value]
    return wrong


def changed(content: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """Copy containers with another value, or without it.

    Args:
        content: The outermost container.
        keys: Keys to the value.
        value: The new one.
    """
    content, (first, *rest) = copy.copy(content), keys
    if rest:
        content[first] = changed(content[first], tuple(rest), value)
    elif value is MISSING:
        del content[first]
    else:
        content[first] = value
    return content


def wrong_content(content: dict[str, Any], rng: random.Random, path: Path) -> str:
    """Write a well-formed file, with a valid digest, in which one value is wrong.

    Args:
        content: Content of a whole file.
        rng: Chooses everything.
        path: File to write.

    Returns:
        What is wrong.
    """
    if rng.random() < 0.1:
        path.write_bytes(nested(rng))
        return "nested"
    depth = rng.randrange(1, 6)  # most values are deep
    cases = [case for case in fields(content) if len(case[0]) == depth]
    keys, value = rng.choice(cases)
    wrong = rng.choice(wrong_values(value))
    save_torch_file(changed(content, keys, wrong), path)
    shown = "missing" if wrong is MISSING else type(wrong).__name__
    return f"{'.'.join(map(str, keys))} = {shown}"


def nested(rng: random.Random) -> bytes:
    """Return a file whose pickle nests tuples, lists or dicts, as a value or as a key.

    Args:
        rng: Chooses kind and depth.
    """
    depth = rng.choice(_DEEP)
    inner: bytes = rng.choice(
        (
            b"N" + b"\x85" * depth,  # tuples
            b"]" * depth + b"a" * (depth - 1),
            b"}" * depth,
            b"(" * depth + b"l" * depth,
            b"}K\1" * depth + b"N" + b"s" * depth,
        )
    )
    name = rng.choice((b"state_dict", b"hyper_parameters", b"epoch", b"loops"))
    key = b"X" + len(name).to_bytes(4, "little") + name
    pair: bytes = rng.choice((key + inner, inner + key))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + pair + b"s.")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()
