"""Archives are unpacked completely or not at all, and nothing is written outside the folder."""

import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.references.tar_files import info, tar_of
from utils import unpack as module
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


OUTSIDE = "which is not a name inside its folder"
NOT_PLAIN = "which is not a plain file"
TOO_LARGE = r"would grow beyond 0\.0 GB"
DAMAGED = r"is not a whole zip or tar .*download or copy it again"
SYMLINK = info("link", tarfile.SYMTYPE, linkname="..")

TAR_ATTACKS = {
    "parent": (tar(info("../out")), OUTSIDE),
    "parent inside": (tar(info("a/../../out")), OUTSIDE),
    "absolute": (tar(info("/tmp/out")), OUTSIDE),
    "absolute folder": (tar(info("/tmp/out", tarfile.DIRTYPE)), OUTSIDE),
    "backslashes": (tar(info("..\\out")), OUTSIDE),
    "control character": (tar(info("a\nb")), OUTSIDE),
    "symlink, then through it": (tar(SYMLINK, info("link/out")), NOT_PLAIN),
    "hard link": (tar(info("link", tarfile.LNKTYPE, linkname="../victim")), NOT_PLAIN),
    "device": (tar(info("null", tarfile.CHRTYPE, devmajor=1, devminor=3)), NOT_PLAIN),
    "fifo": (tar(info("pipe", tarfile.FIFOTYPE)), NOT_PLAIN),
    "bomb": (gzip.compress(tar(info("zeros", size=2**21))), TOO_LARGE),
    "cut in a file": (tar(info("a", size=5000))[:3000], DAMAGED),
    "cut gzip": (gzip.compress(tar(info("a", size=5000)))[:-40], DAMAGED),
    "damaged gzip": (gzip.compress(os.urandom(4000), 0)[:20] + b"\xff" * 4000, DAMAGED),
    "empty": (b"", DAMAGED),
    "text": (b"Not Found", DAMAGED),
}
ZIP_ATTACKS = {
    "parent": (zip_of(("../out", EVIL)), OUTSIDE),
    "absolute": (zip_of(("/tmp/out", EVIL)), OUTSIDE),
    "backslashes": (zip_of(("..\\out", EVIL)), OUTSIDE),
    "symlink": (zip_of(("link", b".."), mode=stat.S_IFLNK | 0o777), NOT_PLAIN),
    "device": (zip_of(("null", b""), mode=stat.S_IFCHR | 0o666), NOT_PLAIN),
    "bomb": (zip_of(("zeros", bytes(2**21))), TOO_LARGE),
    "damaged": (
        zip_of(("a", EVIL * 9), method=zipfile.ZIP_STORED).replace(b"evil", b"good", 1),
        DAMAGED,
    ),
    "encrypted": (
        zip_of(("a", EVIL)).replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1"),
        "holds encrypted files: pack it again without a password",
    ),
    "Deflate64": (
        zip_of(("a", EVIL)).replace(b"\0\0\x08\0", b"\0\0\x09\0"),
        "compressed with Deflate64, which is not supported",
    ),
    "cut": (zip_of(("a", EVIL * 99))[:-30], DAMAGED),
}


@pytest.mark.parametrize(
    ("attack", "message"),
    [*TAR_ATTACKS.values(), *ZIP_ATTACKS.values()],
    ids=[*(f"tar: {name}" for name in TAR_ATTACKS), *(f"zip: {name}" for name in ZIP_ATTACKS)],
)
@pytest.mark.difference("archives")
def test_an_attack_leaves_nothing_inside_or_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: bytes, message: str
) -> None:
    monkeypatch.setattr(module, "_MAX_RATIO_FROM", 2**20)
    (tmp_path / "victim").write_bytes(b"precious")
    archive = tmp_path / "data" / "archive"
    archive.parent.mkdir()
    archive.write_bytes(attack)
    before = snapshot(tmp_path)
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


@pytest.mark.parametrize("kind", ["pax", "zip"])
def test_several_entries_stay_side_by_side(tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(WRITERS[kind]([("a", b"1"), ("./b/c", b"2"), ("b/d", b"3")]))
    unpack([tmp_path / "archive"], tmp_path / "folder")
    assert snapshot(tmp_path / "folder") == {"a": b"1", "b": None, "b/c": b"2", "b/d": b"3"}


def test_pieces_of_a_split_archive_are_read_as_one(tmp_path: Path) -> None:
    whole = gzip.compress(tar_of([("noise", os.urandom(5000)), *FILES.items()]))
    pieces = [tmp_path / f"S2.tar.gz{suffix}" for suffix in ("aa", "ab", "ac")]
    for number, piece in enumerate(pieces):
        piece.write_bytes(whole[number * 2000 : (number + 1) * 2000])
    pieces[-1].write_bytes(whole[4000:])
    unpack(pieces, tmp_path / "folder")
    assert (tmp_path / "folder" / "top" / "a.tif").read_bytes() == FILES["top/a.tif"]
    with pytest.raises(UserError, match=r"S2\.tar\.gzaa is not a whole zip or tar"):
        unpack(pieces[:2], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_exists_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar_of(FILES.items()))
    (tmp_path / "folder").mkdir()
    assert not unpack([tmp_path / "archive"], tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_an_archive_larger_than_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (tmp_path / "archive").write_bytes(WRITERS[kind]([("a", bytes(2000))]))
    with pytest.raises(UserError, match=r"needs more than the .* GB that are free"):
        unpack([tmp_path / "archive"], tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


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
