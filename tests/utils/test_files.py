"""Hidden files, files written completely or not at all, and a remedy for every error of a path."""

import errno
import os
from pathlib import Path

import pytest

from utils.errors import UserError, os_error_sentence
from utils.files import check_can_write, is_hidden, remove_partials, written_whole


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (".DS_Store", True),
        ("._B04.tif", True),
        (".B04.tif", True),
        ("paris/imgs_1/._B04.tif", True),
        (".git/B04.tif", True),
        ("a/.ipynb_checkpoints/B04.tif", True),
        ("__MACOSX", True),
        ("__MACOSX/a/B04.tif", True),
        ("a/__MACOSX/B04.tif", True),
        ("a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", True),
        ("./._B04.tif", True),
        ("B04.tif", False),
        ("./paris/B04.tif", False),
        ("a.b/c.d.tif", False),
        ("a/MACOSX/B04.tif", False),
    ],
)
def test_hidden_files_are_recognised(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden


REMEDIES = {
    errno.ENOSPC: "free some space on this disk",
    errno.EDQUOT: "free some space within your quota",
    errno.EROFS: "a disk that is not read-only",
    errno.EACCES: "change the permissions",
    errno.EPERM: "change the permissions",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "one of its folders is a file",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "move the existing file away",
    errno.EFBIG: "ulimit -f",
    errno.ELOOP: "circle of symbolic links",
    errno.ENXIO: "name a regular file",
    errno.EIO: "check the disk",
}


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.get)
def test_every_error_of_a_path_has_its_own_remedy(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(number, os.strerror(number), "a/b")
    sentence = str(os_error_sentence(error))
    assert sentence.startswith(f"a/b: {os.strerror(number)}: ")
    assert [other for other, remedy in REMEDIES.items() if remedy in sentence] == [
        other for other, remedy in REMEDIES.items() if remedy == REMEDIES[number]
    ]

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    path, expected = tmp_path / "x", f"cannot write .*: .*{REMEDIES[number]}"
    with pytest.raises(UserError, match=expected), written_whole(path) as partial:
        partial.touch()
    assert not any(tmp_path.iterdir())


def test_another_error_of_the_system_is_a_bug() -> None:
    assert os_error_sentence(OSError(errno.EBADF, "Bad file descriptor")) is None


def test_a_path_that_cannot_be_written_is_refused_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"--log_dir .* cannot be written: .*one of its folders is a"
    ):
        check_can_write("log_dir", tmp_path / "file" / "x", is_folder=True)
    with pytest.raises(UserError, match=r"cannot be written: .*shorten the name"):
        check_can_write("save_path", tmp_path / ("n" * 250), is_folder=False)  # partial is longer


def test_a_folder_is_written_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"), written_whole(tmp_path / "a") as partial:
        (partial / "b").touch()  # in a folder that does not exist
    assert not any(tmp_path.iterdir())
    with written_whole(tmp_path / "a") as partial:
        partial.mkdir()
        (partial / "b").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.123.partial").touch()
    (tmp_path / ".b.json.123.partial").touch()
    remove_partials(tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == [".b.json.123.partial"]
