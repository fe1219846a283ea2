"""Our reader of large zips against Python's, and zips that are not what they say."""

import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets import archive as zip_files
from datasets.archive import ZipFiles
from utils.errors import UserError

NAMES = st.text("abcé/.", min_size=1, max_size=12).filter(lambda name: not name.endswith("/"))
CONTENTS = st.binary(max_size=400) | st.just(bytes(3000))


def write(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = b"a comment"
    return path


def contents(path: Path) -> dict[str, bytes]:
    files = ZipFiles(path)
    return {name: files.read(member) for name, member in files.members()}


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(files=st.dictionaries(NAMES, CONTENTS, max_size=6), method=st.sampled_from([0, 8]))
def test_members_are_those_that_python_reads(
    tmp_path: Path, files: dict[str, bytes], method: int
) -> None:
    path = write(tmp_path / "z.zip", files, method)
    with zipfile.ZipFile(path) as archive:
        expected = {info.filename: archive.read(info) for info in archive.infolist()}
    assert contents(path) == expected == files


def test_directories_are_read_in_parts_also_with_the_signature_of_an_entry_in_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_files, "_BLOCK_BYTES", 100)  # one or two entries
    names = ["a/1", "a/2", "a/PK\1\2", "PK\1\2/PK\1\2" * 4, "b/1", "a/3"]
    files = {name: name.encode() for name in names}
    path = write(tmp_path / "z.zip", files)
    assert contents(path) == files
    runs = [(folder, names) for folder, names, _ in ZipFiles(path).runs()]
    assert [f"{folder}{name}" for folder, names in runs for name in names] == names


def test_zip64_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    files = {f"{number}": bytes([number]) * 150 * number for number in range(1, 6)}
    path = write(tmp_path / "z.zip", files, zipfile.ZIP_STORED)
    assert b"PK\6\6" in path.read_bytes()
    assert contents(path) == files


def test_forked_and_spawned_processes_read_for_themselves(tmp_path: Path) -> None:
    path = write(tmp_path / "z.zip", {"a": b"1" * 99, "b": b"2" * 99})
    files = ZipFiles(path)
    members = dict(files.members())
    assert files.read(members["a"]) == b"1" * 99
    copy = pickle.loads(pickle.dumps(files))
    assert copy.read(members["b"]) == b"2" * 99
    child = os.fork()
    if child == 0:
        os._exit(files.read(members["b"]) != b"2" * 99)
    assert files.read(members["a"]) == b"1" * 99
    assert os.waitpid(child, 0)[1] == 0


def test_a_zip_that_is_no_longer_used_is_closed(tmp_path: Path) -> None:
    path = write(tmp_path / "z.zip", {"a": b"1"})
    opened = Path("/proc/self/fd")
    before = len(list(opened.iterdir()))
    for _ in range(3):
        contents(path)
    assert len(list(opened.iterdir())) == before


def test_zip_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.zip", {"a": b"1" * 99, "b": b"2" * 99}).read_bytes()
    path = tmp_path / "cut.zip"
    for length in range(len(whole) - len(b"a comment") - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.zip is not a whole zip: download"):
            list(ZipFiles(path).members())


def test_damaged_member_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "z.zip", {"a": b"1" * 99}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    files = ZipFiles(path)
    with pytest.raises(ValueError, match="checksum"):
        files.read(next(files.members())[1])


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (42, 3, "no member starts here"),  # the offset
        (42, 10**9, "an offset beyond the end"),
        (24, 2**31, "bytes are more than"),  # the size
        (24, 98, "checksum"),
        (16, 7, "checksum"),
        (20, 2**32 - 1, "no zip64 field"),  # the size when it is stored
    ],
)
def test_directory_that_lies_is_an_error(tmp_path: Path, at: int, value: int, message: str) -> None:
    path = write(tmp_path / "z.zip", {"a": b"1" * 99})
    data = bytearray(path.read_bytes())
    at += data.rfind(b"PK\1\2")
    data[at : at + 4] = struct.pack("<L", value)
    path.write_bytes(data)
    files = ZipFiles(path)
    with pytest.raises(ValueError, match=message):
        files.read(next(files.members())[1])


@pytest.mark.parametrize("declared", [0, 5])
def test_bomb_ends_at_the_size_that_it_declares(
    tmp_path: Path, declared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "z.zip", {"a": bytes(10**7)})
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<L", declared)
    path.write_bytes(data)
    files = ZipFiles(path)
    inflated: list[int] = []

    class Spy:
        def __init__(self, bits: int) -> None:
            self.inner = real(bits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            out = self.inner.decompress(data, limit)
            inflated.append(len(out))
            return out

    real = zip_files.zlib.decompressobj
    monkeypatch.setattr(zip_files.zlib, "decompressobj", Spy)
    with pytest.raises(ValueError, match="checksum"):
        files.read(next(files.members())[1])
    assert inflated == [max(1, declared)]


def change_method(path: Path, method: int, flags: int = 0) -> None:
    """Give the only member of a zip another method and flags, in both of its headers."""
    data = bytearray(path.read_bytes())
    for at in (data.find(b"PK\3\4") + 6, data.rfind(b"PK\1\2") + 8):
        data[at : at + 4] = struct.pack("<HH", flags, method)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        (9, 0, r"z\.zip holds files that are compressed with Deflate64, .* pack it again"),
        (93, 0, "compressed with Zstandard"),
        (14, 0, "compressed with method 14"),
        (8, 1, r"z\.zip holds encrypted files: pack it again without a password"),
        (99, 1, "holds encrypted files"),
    ],
)
def test_methods_that_are_not_read_are_named(
    tmp_path: Path, method: int, flags: int, message: str
) -> None:
    path = write(tmp_path / "z.zip", {"a": b"1" * 99})
    change_method(path, method, flags)
    files = ZipFiles(path)
    with pytest.raises(UserError, match=message):
        files.read(next(files.members())[1])


GIB = 2**30


def write_as_archive_utility(path: Path, offsets: list[int], begin: int) -> dict[str, bytes]:
    """Write stored members at offsets of a sparse file, whose fields keep 32 bits of them.

    Source: github.com/thejoshwolfe/yauzl/issues/69; layouts of APPNOTE.TXT 4.3.7, 4.3.12, 4.3.16.
    Made by version 0x315, flag 8: crc and sizes are behind the data.
    """
    contents = {f"{number}.tif": bytes([number]) * 50 for number in range(len(offsets))}
    directory = b""
    with path.open("wb") as file:
        for (name, data), offset in zip(contents.items(), offsets, strict=True):
            crc = zlib.crc32(data)
            file.seek(offset)
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 8, 0, 0, 0, 0, 0, 0, len(name), 0))
            file.write(name.encode() + data)
            file.write(struct.pack("<4s3L", b"PK\7\x08", crc, len(data), len(data)))
            numbers = (crc, len(data), len(data), len(name), 0, 0, 0, 0, 0, offset % 2**32)
            directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 0x315, 20, 8, 0, 0, 0, *numbers)
            directory += name.encode()
        file.seek(begin)
        file.write(directory)
        ends = (len(offsets), len(offsets), len(directory), begin % 2**32, 0)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *ends))
    return contents


def test_offsets_that_overflowed_are_restored(tmp_path: Path) -> None:
    path = tmp_path / "archive_utility.zip"
    offsets = [0, GIB, 3 * GIB, 5 * GIB, 6 * GIB, 9 * GIB]
    written = write_as_archive_utility(path, offsets, 9 * GIB + 1000)
    assert contents(path) == written


@pytest.mark.parametrize("offsets", [[0, 5 * GIB], [5 * GIB, 0, GIB, 100]])
def test_sizes_that_overflowed_and_members_out_of_order_are_refused(
    tmp_path: Path, offsets: list[int]
) -> None:
    path = tmp_path / "archive_utility.zip"
    write_as_archive_utility(path, offsets, 5 * GIB + 1000)  # the first may have 5 GiB
    with pytest.raises(UserError, match=r"larger than 4 GiB, but .* pack it again .* zip -r"):
        list(ZipFiles(path).members())


def test_bytes_before_a_zip_shift_it(tmp_path: Path) -> None:
    files = {"a": b"1" * 99, "b": b"2" * 99}
    path = write(tmp_path / "z.zip", files)
    path.write_bytes(b"#!/bin/sh of an archive that extracts itself" + path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
    assert contents(path) == files


@pytest.mark.parametrize("before", [b"", b"junk"])
def test_a_member_beyond_the_end_is_damaged(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 42 : at + 46] = b"\xff" * 4  # the offset is in the zip64 field
    data[at + 30 : at + 32] = (12).to_bytes(2, "little")
    data[at + 47 : at + 47] = struct.pack("<HHQ", 1, 8, 2**63 - 1)
    size = len(data) - 22 - at
    data[-22 + 12 : -22 + 16] = size.to_bytes(4, "little")
    path.write_bytes(before + data)
    files = ZipFiles(path)
    ((_, entry),) = files.members()
    with pytest.raises(ValueError, match="an offset beyond the end"):
        files.read(entry)


@pytest.mark.parametrize(
    ("at", "value"),
    [(-22 + 12, 7), (-22 + 12, 2**31), (-22 + 16, 2**31), (-22 + 10, 3)],
    ids=["small directory", "large directory", "far directory", "more members"],
)
def test_numbers_that_contradict_each_other_are_refused(
    tmp_path: Path, at: int, value: int
) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1" * 99)
        archive.writestr("b", b"2" * 99)
    data = bytearray(path.read_bytes())
    size = 2 if value == 3 else 4
    data[len(data) + at : len(data) + at + size] = value.to_bytes(size, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="is not a whole zip"):
        contents(path)
