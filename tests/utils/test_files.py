"""Paths: hidden files, files written completely or not at all, remedies for errors, and locks."""

import errno
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from utils.errors import UserError, WriteError, os_error_sentence, printable, sentence_of
from utils.files import (
    check_can_write,
    check_checkpoint,
    check_exists,
    is_hidden,
    remove_partials,
    written_whole,
)
from utils.locks import locked, sole_run, sole_writer
from utils.report import write_json
from utils.run_log import RunLog

HIDDEN = (
    ".DS_Store ._B04.tif .B04.tif paris/imgs_1/._B04.tif .git/B04.tif ._B04.tif ./._B04.tif "
    "a/.ipynb_checkpoints/B04.tif __MACOSX __MACOSX/a/B04.tif a/__MACOSX/B04.tif "
    "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg"
)


def test_hidden_files_are_recognised() -> None:
    assert [name for name in HIDDEN.split() if not is_hidden(name)] == []
    names = ("B04.tif", "./paris/B04.tif", "a.b/c.d.tif", "a/MACOSX/B04.tif")
    assert [name for name in names if is_hidden(name)] == []


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
    errno.ENOENT: "correct the path",
}


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.get)
def test_every_error_of_a_path_has_its_own_remedy(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(number, os.strerror(number), "a/b")
    sentence = os_error_sentence(error)
    assert sentence.startswith(f"a/b: {os.strerror(number)}: ")
    assert {each for each in REMEDIES.values() if each in sentence} == {REMEDIES[number]}

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    path, expected = tmp_path / "x", f"cannot write .*: .*{REMEDIES[number]}"
    with pytest.raises(UserError, match=expected), written_whole(path) as partial:
        partial.touch()
    assert not any(tmp_path.iterdir())


def test_an_error_of_the_system_without_a_path_is_a_bug() -> None:
    assert os_error_sentence(OSError(errno.EBADF, "Bad file descriptor")) == ""


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("é\x1b[2J\n\udcff") == r"é\x1b[2J\n\udcff"


def test_the_middle_of_a_long_text_is_left_out() -> None:
    text = printable(f"x.json holds {'[' * 10**7}: replace it")
    assert text.startswith("x.json holds [[")
    assert text.endswith("[[: replace it")
    assert 1000 < len(text) < 2100


def test_a_path_that_cannot_be_written_is_refused_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--log_dir .* cannot be written: .*of its folders is a"):
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


def test_what_a_killed_process_left_goes_with_the_next_write(
    tmp_path: Path,
) -> None:
    process = os.fork()
    if not process:
        with written_whole(tmp_path / "killed") as partial:
            partial.mkdir()
            os._exit(0)
    os.waitpid(process, 0)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 1
    machine = names[0].split(".")[2].partition("-")[0]
    kept = {f".a.{machine}-{os.getppid()}.partial", f".a.0000000a-{process}.partial", ".a.partial"}
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f".old.0000000a-{process}.partial").touch()  # of another machine, two days old
    os.utime(tmp_path / f".old.0000000a-{process}.partial", (time.time() - 172_800,) * 2)
    write_json(tmp_path / "b", 1)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"b"}


@pytest.mark.parametrize("address", ["s3://bucket/set", "gs://bucket/set"])
def test_buckets_are_not_looked_for_on_the_disk(address: str) -> None:
    check_exists("data_dir", Path(address))


def test_a_path_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe.zip", "zeros"):
        with pytest.raises(UserError, match=f"--data_dir .*{name} .*not a regular file"):
            check_exists("data_dir", tmp_path / name)


def test_a_missing_path_is_shown_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--data_dir {tmp_path}/a/b does not exist"):
        check_exists("data_dir", Path("a/b"))


@pytest.mark.parametrize(
    ("files", "named", "suggested"),
    [
        (["checkpoints/last.ckpt"], "", "checkpoints/last.ckpt"),
        (["checkpoints/last.ckpt"], "checkpoints", "checkpoints/last.ckpt"),
        (["last.ckpt", "checkpoints/last.ckpt"], "", "checkpoints/last.ckpt"),
        (["seed=42/checkpoints/last.ckpt"], "", "seed=42/checkpoints/last.ckpt"),
        (["seed=42/last.ckpt"], "", "seed=42/last.ckpt"),
        (["version_0/checkpoints/last.ckpt", "version_1/checkpoints/last.ckpt"], "", "version_1"),
    ],
)
def test_the_folder_of_a_run_is_answered_by_its_checkpoint(
    files: list[str], named: str, suggested: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"is a folder: did you mean {tmp_path}/{suggested}"):
        check_checkpoint("ckpt_path", tmp_path / named)


def test_of_other_folders_only_that_of_timm_is_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder: name a file"):
        check_checkpoint("ckpt_path", tmp_path)
    (tmp_path / "config.json").touch()
    check_checkpoint("ckpt_path", tmp_path)


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with sole_writer(path, "busy"), pytest.raises(UserError, match=r"^busy$"):  # noqa: SIM117
        with sole_writer(path, "busy"):
            pass
    assert not path.exists()
    path.touch()  # left by a process that was killed
    with locked(path):
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("hold", [sole_run, lambda folder: locked(folder / "lock")])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_folder_that_is_lost_while_it_is_held_is_not_written_again(
    hold: Callable[[Path], AbstractContextManager[None]], is_replaced: bool, tmp_path: Path
) -> None:
    run_dir, log = tmp_path / "version_0", RunLog(tmp_path / "version_0", tensorboard=True)
    run_dir.mkdir()
    with hold(run_dir):
        write_json(run_dir / "new/a.json", {})
        run_dir.rename(tmp_path / "elsewhere")
        if is_replaced:  # by another run
            run_dir.mkdir()
            (run_dir / "lock").touch()
        for write in (lambda: write_json(run_dir / "new/b.json", {}), log.save):
            with pytest.raises(WriteError, match="version_0 was removed or renamed"):
                write()
        assert not (run_dir / "new").exists()
        write_json(tmp_path / "other/c.json", {})
    assert run_dir.exists() == (run_dir / "lock").exists() == is_replaced
    write_json(run_dir / "d.json", {})


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lock").symlink_to("mine")
    with pytest.raises(UserError, match=r"cannot lock .*lock \(.*the file must not be a link"):  # noqa: SIM117
        with sole_writer(tmp_path / "lock", "busy"):
            pass
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: FileLock, **_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with locked(tmp_path / "a.lock"), locked(tmp_path / "b.lock", "in use"):
        pass


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_do_not_blame_the_path(number: int) -> None:
    sentence = os_error_sentence(OSError(number, os.strerror(number), "B2.tif"))
    assert sentence.startswith("B2.tif: Too many open files")
    assert "ulimit -n" in sentence


def test_memory_that_torch_does_not_get_is_one_sentence() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert sentence_of(caught.value).startswith("out of memory: lower the sizes")
