"""Archives are unpacked completely or not at all, and nothing is written outside the folder."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.references.tar_files import info, tar_of
from utils.errors import UserError
from utils.unpack import unpack

EVIL = b"evil"
FILES = {"top/a.tif": b"1" * 700, "top/sub/b.tif": b"", "top/sub/" + "é" * 100: b"3" * 512}


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


def tar(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(EVIL + bytes(max(0, member.size - 4))))
    return buffer.getvalue()


def zip_of(*members: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            member = zipfile.ZipInfo(name)
            member.external_attr, member.compress_type = mode << 16, method
            archive.writestr(member, content)
    return buffer.getvalue()


ATTACKS = {
    "tar: parent": tar(info("../out")),
    "tar: parent inside": tar(info("a/../../out")),
    "tar: absolute": tar(info("/tmp/out")),
    "tar: absolute folder": tar(info("/tmp/out", tarfile.DIRTYPE)),
    "tar: backslashes": tar(info("..\\out")),
    "tar: control character": tar(info("a\nb")),
    "tar: a name twice": tar(info("a"), info("a")),
    "tar: through a symlink": tar(info("link", tarfile.SYMTYPE, linkname=".."), info("link/out")),
    "tar: hard link": tar(info("link", tarfile.LNKTYPE, linkname="../victim")),
    "tar: device": tar(info("null", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "tar: fifo": tar(info("pipe", tarfile.FIFOTYPE)),
    "zip: parent": zip_of(("../out", EVIL)),
    "zip: absolute": zip_of(("/tmp/out", EVIL)),
    "zip: backslashes": zip_of(("..\\out", EVIL)),
    "zip: a name twice": zip_of(("a", EVIL), ("b/c", EVIL), ("b/../a", EVIL)),
    "zip: symlink": zip_of(("link", b".."), mode=stat.S_IFLNK | 0o777),
    "zip: device": zip_of(("null", b""), mode=stat.S_IFCHR | 0o666),
}
STORED = zip_of(("a", EVIL * 9), method=zipfile.ZIP_STORED)
DAMAGED = {
    "tar: cut in a file": tar(info("a", size=5000))[:3000],
    "tar: cut gzip": gzip.compress(tar(info("a", size=5000)))[:-40],
    "tar: damaged gzip": gzip.compress(os.urandom(4000), 0)[:20] + b"\xff" * 4000,
    "empty": b"",
    "text": b"Not Found",
    "zip: damaged": STORED.replace(b"evil", b"good", 1),
    "zip: encrypted": zip_of(("a", EVIL)).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
    "zip: Deflate64": zip_of(("a", EVIL)).replace(b"\0\0\x08\0", b"\0\0\x09\0"),
    "zip: cut": zip_of(("a", EVIL * 99))[:-30],
}


@pytest.mark.parametrize("name", [*ATTACKS, *DAMAGED])
@pytest.mark.difference("archives")
def test_a_bad_archive_leaves_nothing_inside_or_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    archive = tmp_path / "data" / "archive"
    archive.parent.mkdir()
    archive.write_bytes((ATTACKS | DAMAGED)[name])
    before = snapshot(tmp_path)
    message = "not a new file inside" if name in ATTACKS else "not a whole zip or tar .*again"
    with pytest.raises(UserError, match=f"archive .*{message}"):
        unpack([archive], archive.parent / "folder")
    assert snapshot(tmp_path) == before
    assert not Path("/tmp/out").exists()


WRITERS: dict[str, Callable[[Iterable[tuple[str, bytes]]], bytes]] = {
    "pax": tar_of,
    "gnu": lambda files: tar_of(files, tarfile.GNU_FORMAT),
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "zip": lambda files: zip_of(*files),
    "bzip2": lambda files: zip_of(*files, method=zipfile.ZIP_BZIP2),
    "lzma": lambda files: zip_of(*files, method=zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_only_folder_of_an_archive_becomes_the_folder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(WRITERS[kind](FILES.items()))
    (tmp_path / ".folder.partial" / "old").mkdir(parents=True)  # of a process that was killed
    assert unpack([tmp_path / "archive"], tmp_path / "folder")
    expected = {name.removeprefix("top/"): content for name, content in FILES.items()}
    assert snapshot(tmp_path / "folder") == {"sub": None} | expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "folder"]
    assert (tmp_path / "folder" / "a.tif").stat().st_mode & 0o7022 == 0  # neither setuid nor shared
    (tmp_path / "folder" / "a.tif").unlink()
    assert not unpack([tmp_path / "archive"], tmp_path / "folder")  # which is not changed
    assert not (tmp_path / "folder" / "a.tif").exists()


@pytest.mark.parametrize("kind", ["pax", "zip"])
def test_several_entries_stay_side_by_side(tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(WRITERS[kind]([("a", b"1"), ("./b/c", b"2"), ("b/d", b"3")]))
    unpack([tmp_path / "archive"], tmp_path / "folder")
    assert snapshot(tmp_path / "folder") == {"a": b"1", "b": None, "b/c": b"2", "b/d": b"3"}


def test_pieces_of_a_split_archive_are_read_as_one(tmp_path: Path) -> None:
    whole = gzip.compress(tar_of([("noise", os.urandom(5000)), *FILES.items()]))
    pieces = [tmp_path / f"S2.tar.gz{suffix}" for suffix in ("aa", "ab", "ac")]
    for piece, start, end in zip(pieces, (0, 2000, 4000), (2000, 4000, None), strict=True):
        piece.write_bytes(whole[start:end])
    unpack(pieces, tmp_path / "folder")
    assert (tmp_path / "folder" / "top" / "a.tif").read_bytes() == FILES["top/a.tif"]
    with pytest.raises(UserError, match=r"S2\.tar\.gzaa is not a whole zip or tar"):
        unpack(pieces[:2], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_disk_that_fills_up_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    (tmp_path / "archive").write_bytes(zip_of(("a", bytes(2000))))
    with pytest.raises(UserError, match=r"nothing of .*archive was unpacked, .*: free some space"):
        unpack([tmp_path / "archive"], tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]
