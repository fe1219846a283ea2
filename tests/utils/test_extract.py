"""Archives that attack: nothing outside the folder, nothing half-made, one sentence."""

import errno
import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.references.tar_files import info, tar_of
from utils.errors import UserError
from utils.extract import extract
from utils.unpack_writer import Limits, UnpackWriter, safe_parts

EVIL = b"evil"
LIMITS = Limits(members=50, bytes=2**22, ratio=100, ratio_from=2**20)


def snapshot(root: Path) -> dict[str, bytes | str | None]:
    """Return everything below a folder, links by where they lead."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(root.rglob("*"))
    }


def tar(*members: tarfile.TarInfo, tail: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"evil" + bytes(max(0, member.size - 4))))
    return buffer.getvalue() + tail


def raw_header(name: str, size: int, kind: bytes) -> bytes:
    """Write a header whose numbers the library would not write; a negative size is base 256."""
    member = info(name)
    member.type = kind
    member.size = max(0, size)
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    if size < 0 or size >= 8**11:
        block[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes) -> bytes:
    body = records + bytes(-len(records) % 512)
    return raw_header("pax", len(records), tarfile.XHDTYPE) + body


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text) + len(str(len(text) + 2))
    return str(length).encode() + text


SYMLINK = info("link", tarfile.SYMTYPE, linkname="..")
LAST = raw_header("last", 4, tarfile.REGTYPE) + b"evil".ljust(512, b"\0") + bytes(1024)

TAR_ATTACKS = {
    "parent": tar(info("../out")),
    "parent inside": tar(info("a/../../out")),
    "parent at the end": tar(info("a/..")),
    "absolute": tar(info("/tmp/out")),
    "absolute folder": tar(info("/tmp/out", tarfile.DIRTYPE)),
    "parent folder": tar(info("../out", tarfile.DIRTYPE)),
    "backslashes": tar(info("..\\out")),
    "drive": tar(info("C:out")),
    "no name": tar(info("./.")),
    "control character": tar(info("a\nb")),
    "symlink": tar(SYMLINK),
    "symlink, then through it": tar(SYMLINK, info("link/out")),
    "symlink to a file, then over it": tar(
        info("link", tarfile.SYMTYPE, linkname="../victim"), info("link")
    ),
    "absolute symlink": tar(info("link", tarfile.SYMTYPE, linkname="/etc")),
    "hard link": tar(info("link", tarfile.LNKTYPE, linkname="../victim")),
    "hard link to itself": tar(info("link", tarfile.LNKTYPE, linkname="link")),
    "character device": tar(info("null", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "block device": tar(info("disk", tarfile.BLKTYPE, devmajor=8)),
    "fifo": tar(info("pipe", tarfile.FIFOTYPE)),
    "unknown type": raw_header("odd", 0, b"Q") + bytes(1024),
    "contiguous file": raw_header("odd", 0, tarfile.CONTTYPE) + bytes(1024),
    "twice": tar(info("a"), info("a")),
    "twice, spelled differently": tar(info("a/b"), info("./a//b")),
    "upper and lower case": tar(info("d/a"), info("d/A")),
    "file as folder": tar(info("a"), info("a/b")),
    "folder as file": tar(info("a/b"), info("a")),
    "too many": tar(*(info(str(number)) for number in range(60))),
    "bomb": gzip.compress(tar(info("zeros", size=2**21))),
    "bomb behind the end": gzip.compress(tar(info("a"), tail=bytes(2**24))),
    "too large": tar(info("zeros", size=2**22 + 1)),
    "announces more than the disk": raw_header("huge", 2**62, tarfile.REGTYPE) + bytes(1024),
    "negative size": raw_header("negative", -512, tarfile.REGTYPE) + bytes(1024),
    "old sparse": raw_header("sparse", 0, tarfile.GNUTYPE_SPARSE) + bytes(1024),
    "pax sparse": pax(record("GNU.sparse.map", "0,1") + record("GNU.sparse.size", "9")) + LAST,
    "pax sparse without an end": pax(
        record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")
    )
    + raw_header("sparse", 1024, tarfile.REGTYPE)
    + b"999999999999\n".ljust(1024, b"1"),
    "pax path": pax(record("path", "../out")) + LAST,
    "pax absolute path": pax(record("path", "/tmp/out")) + LAST,
    "pax path with a zero": pax(record("path", "a\0b")) + LAST,
    "pax size": pax(record("size", "99999999")) + LAST,
    "pax negative size": pax(record("size", "-1024")) + LAST,
    "pax header of 70,000 bytes": pax(record("comment", "x" * 70_000)) + LAST,
    "pax header too long": raw_header("pax", 2**40, tarfile.XHDTYPE) + bytes(2048),
    "global pax header too long": raw_header("pax", 2**40, tarfile.XGLTYPE) + bytes(2048),
    "negative pax header": raw_header("pax", -1024, tarfile.XHDTYPE) + LAST,
    "GNU name too long": raw_header("n", 2**40, tarfile.GNUTYPE_LONGNAME) + bytes(2048),
    "name of 300 bytes": tar(info("a" * 300)),
    "path of 2000 bytes": tar(info("a/" * 1000 + "b")),
    "deep": tar(info("a/" * 40 + "b")),
    "not UTF-8": tar(info("a\udcff")),
    "cut in a file": tar(info("a", size=5000))[:3000],
    "cut between files": tar(info("a"), info("b"))[:1024],
    "cut gzip": gzip.compress(tar(info("a", size=5000)))[:-12],
    "wrong gzip checksum": gzip.compress(tar(info("a")))[:-8] + bytes(8),
    "damaged gzip": gzip.compress(os.urandom(4000), 0)[:20] + b"\xff" * 4000,
    "empty": b"",
    "text": b"Not Found",
}


def zip_of(*members: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            member = zipfile.ZipInfo(name)
            member.external_attr, member.compress_type = mode << 16, method
            archive.writestr(member, content)
    return buffer.getvalue()


def overlapping() -> bytes:
    """Hide a second member in the bytes of the first one, as bombs do that count twice."""
    hidden = zip_of(("b", EVIL), method=zipfile.ZIP_STORED)
    hidden = hidden[: hidden.index(b"PK\1\2")]
    content = zip_of(("a", hidden), ("b", EVIL), method=zipfile.ZIP_STORED)
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    inside_a = 30 + len("a")
    return content[: second + 42] + struct.pack("<L", inside_a) + content[second + 46 :]


def lying_zip(size: int) -> bytes:
    """Announce another size of a member that has a thousand bytes."""
    content = bytearray(zip_of(("a", bytes(1000))))
    directory = content.index(b"PK\1\2")
    content[directory + 24 : directory + 28] = struct.pack("<L", size)
    return bytes(content)


ZIP_ATTACKS = {
    "parent": zip_of(("../out", EVIL)),
    "parent inside": zip_of(("a/../../out", EVIL)),
    "absolute": zip_of(("/tmp/out", EVIL)),
    "backslashes": zip_of(("..\\out", EVIL)),
    "drive": zip_of(("C:/out", EVIL)),
    "zero in the name": zip_of(("aXb", EVIL)).replace(b"aXb", b"a\0b"),
    "symlink": zip_of(("link", b".."), mode=stat.S_IFLNK | 0o777),
    "device": zip_of(("null", b""), mode=stat.S_IFCHR | 0o666),
    "fifo": zip_of(("pipe", b""), mode=stat.S_IFIFO | 0o666),
    "upper and lower case": zip_of(("a", EVIL), ("A", EVIL)),
    "file as folder": zip_of(("a", EVIL), ("a/b", EVIL)),
    "too many": zip_of(*((str(number), EVIL) for number in range(60))),
    "bomb": zip_of(("zeros", bytes(2**21))),
    "too large": zip_of(("zeros", bytes(2**22 + 1)), method=zipfile.ZIP_STORED),
    "overlapping": overlapping(),
    "announces less": lying_zip(10),
    "announces more": lying_zip(2000),
    "other name inside": zip_of(("aaa", EVIL)).replace(b"aaa", b"bbb", 1),
    "damaged": zip_of(("a", EVIL * 9), method=zipfile.ZIP_STORED).replace(b"evil", b"good", 1),
    "encrypted": zip_of(("a", EVIL)).replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1"),
    "unknown compression": zip_of(("a", EVIL)).replace(b"\0\0\x08\0", b"\0\0\x63\0"),
    "cut": zip_of(("a", EVIL * 99))[:-30],
    "no directory": zip_of(("a", EVIL))[:30],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "attack",
    [*TAR_ATTACKS.values(), *ZIP_ATTACKS.values()],
    ids=[*(f"tar: {name}" for name in TAR_ATTACKS), *(f"zip: {name}" for name in ZIP_ATTACKS)],
)
@pytest.mark.difference("archives")
def test_an_attack_leaves_nothing_inside_or_outside(tmp_path: Path, attack: bytes) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    archive = tmp_path / "data" / "archive"
    archive.parent.mkdir()
    archive.write_bytes(attack)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        extract([archive], archive.parent / "folder", LIMITS)
    assert "archive" in str(caught.value)
    assert snapshot(tmp_path) == before
    assert not Path("/tmp/out").exists()


def test_a_duplicate_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        (tmp_path / "z.zip").write_bytes(zip_of(("a", EVIL), ("a", b"good")))
    with pytest.raises(UserError, match="twice"):
        extract([tmp_path / "z.zip"], tmp_path / "folder")


FILES = {"top/a.tif": b"1" * 700, "top/sub/b.tif": b"", "top/sub/" + "é" * 100: b"3" * 512}


WRITERS: dict[str, Callable[[Iterable[tuple[str, bytes]]], bytes]] = {
    "pax": tar_of,
    "gnu": lambda files: tar_of(files, tarfile.GNU_FORMAT),
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "zip": lambda files: zip_of(*files),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_only_folder_of_an_archive_becomes_the_folder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(WRITERS[kind](FILES.items()))
    assert extract([tmp_path / "archive"], tmp_path / "folder")
    expected = {name.removeprefix("top/"): content for name, content in FILES.items()}
    assert snapshot(tmp_path / "folder") == {"sub": None} | expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "folder"]
    assert stat.S_IMODE((tmp_path / "folder" / "a.tif").stat().st_mode) & ~0o666 == 0


@pytest.mark.parametrize("kind", WRITERS)
def test_several_entries_stay_side_by_side(tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(WRITERS[kind]([("a", b"1"), ("./b/c", b"2"), ("b/d", b"3")]))
    extract([tmp_path / "archive"], tmp_path / "folder")
    assert snapshot(tmp_path / "folder") == {"a": b"1", "b": None, "b/c": b"2", "b/d": b"3"}


def test_pieces_of_a_split_archive_are_read_as_one(tmp_path: Path) -> None:
    whole = gzip.compress(tar_of([("noise", os.urandom(5000)), *FILES.items()]))
    pieces = [tmp_path / f"S2.tar.gz{suffix}" for suffix in ("aa", "ab", "ac")]
    for number, piece in enumerate(pieces):
        piece.write_bytes(whole[number * 2000 : (number + 1) * 2000])
    pieces[-1].write_bytes(whole[4000:])
    extract(pieces, tmp_path / "folder")
    assert (tmp_path / "folder" / "top" / "a.tif").read_bytes() == FILES["top/a.tif"]
    with pytest.raises(UserError, match=r"S2\.tar\.gzaa is not a whole zip or tar"):
        extract(pieces[:2], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar_of(FILES.items()))
    (tmp_path / "folder").mkdir()
    assert not extract([tmp_path / "archive"], tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar_of([("a", b"1"), ("b", b"2")]))
    (tmp_path / ".folder.partial").mkdir()
    (tmp_path / ".folder.partial" / "old").write_bytes(b"old")
    extract([tmp_path / "archive"], tmp_path / "folder")
    assert snapshot(tmp_path / "folder") == {"a": b"1", "b": b"2"}


def test_an_archive_larger_than_the_disk_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (tmp_path / "archive").write_bytes(zip_of(("a", bytes(2000))))
    with pytest.raises(UserError, match=r"needs more than the .* GB that are free"):
        extract([tmp_path / "archive"], tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_a_disk_that_fills_up_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(UnpackWriter, "add_file", full)
    (tmp_path / "archive").write_bytes(zip_of(("a", bytes(2000))))
    with pytest.raises(UserError, match=r"the disk is full, nothing of .*archive was unpacked"):
        extract([tmp_path / "archive"], tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_dots_and_double_slashes_are_the_same_name() -> None:
    assert safe_parts("./a//b/./c.tif") == ("a", "b", "c.tif")
