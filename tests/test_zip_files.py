"""Our reader of large zips against Python's, and zips that are not what they say."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets import zip_files
from datasets.zip_files import ZipFiles
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
    ("changes", "message"),
    [
        ({"method": -1}, "compression method -1"),
        ({"method": 12}, "compression method 12"),
        ({"offset": 3}, "no member starts here"),
        ({"offset": 10**9}, "no member starts here"),
        ({"size": 2**40}, "are no patch"),
        ({"size": 98}, "checksum"),
        ({"crc": 7}, "checksum"),
    ],
)
def test_directory_that_lies_is_an_error(
    tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    files = ZipFiles(write(tmp_path / "z.zip", {"a": b"1" * 99}))
    member = next(files.members())[1]._replace(**changes)
    with pytest.raises(ValueError, match=message):
        files.read(member)


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


def test_encrypted_member_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "z.zip", {"a": b"1" * 99})
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert next(ZipFiles(path).members())[1].method == -1


def test_listing_keeps_no_members(tmp_path: Path) -> None:
    """13 million members must not become 13 million objects."""
    path = write(tmp_path / "z.zip", {str(number): b"" for number in range(100)})
    members = ZipFiles(path).members()
    assert next(members)[0] == "0"
    assert zip_files.MEMBER_FIELDS[0][0] == "offset"
    assert len(list(members)) == 99
