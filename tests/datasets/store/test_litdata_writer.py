"""Writing LitData chunks: the same bytes by any number of workers, or nothing."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from datasets.seco_packed import main as pack
from datasets.store.litdata import INDEX_NAME
from datasets.store.litdata_writer import write_litdata
from datasets.store.open import open_patches
from tests.references.numbered_patches import CHUNK_BYTES, Numbered
from utils.errors import UserError


def test_writing_leaves_alone_what_is_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set exists: remove it"):
        write_litdata(Numbered(), root)
    busy = FileLock(tmp_path / "new.lock")
    with busy, pytest.raises(UserError, match=r"another process writes .*new: wait for it"):
        write_litdata(Numbered(), tmp_path / "new")
    (tmp_path / ".new.1.partial").mkdir()  # of a process that was killed
    write_litdata(Numbered(), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_writing_needs_room_and_few_bad_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for num_workers in (0, 1):
        with pytest.raises(UserError, match=r"^more than 1% of 199 samples are bad"):
            write_litdata(Numbered(50, bad=(1, 30, 60)), tmp_path / "set", num_workers)
    usage = shutil.disk_usage(tmp_path)._replace(free=199 * 42 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0\.0 GB free, but 0\.0 GB are needed"):
        write_litdata(Numbered(), tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_workers_write_the_same_bytes_and_show_progress(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_litdata(Numbered(), tmp_path / "set", 2, chunk_bytes=CHUNK_BYTES)
    assert "50/50" in capfd.readouterr().err
    files = {path.name: path.read_bytes() for path in root.iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    for content in (files, again):
        index = json.loads(content.pop(INDEX_NAME))
        content[INDEX_NAME] = json.dumps(index["chunks"]).encode()
    assert again == files


class Deadly(Numbered):
    """Ends the process that reads a patch, unless it is that of the test."""

    parent = os.getpid()

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        if patch == 100 and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(patch, out)


def test_a_killed_worker_ends_the_writing_and_leaves_no_process(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())  # of loaders that are not yet collected
    with pytest.raises(UserError, match="a worker process was killed"):
        write_litdata(Deadly(), tmp_path / "set", 2)
    assert set(multiprocessing.active_children()) <= before
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_the_folder_holds(
    seco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    flags = ["--bands", "B4", "B3", "B8", "--num_workers", "0", "--format", "litdata"]
    shutil.copytree(seco_root, tmp_path / "source")
    quantiles = {"quantiles": {"B8": [0, 100]}}
    (tmp_path / "source" / "quantiles.json").write_text(json.dumps(quantiles))
    pack(["--data_dir", str(tmp_path / "source"), "--save_path", str(folder), *flags])
    out = capsys.readouterr().out
    assert "24 patches of 6 places, B4 B3 B8, 48 x 48 px, 0.00 GB" in out
    places = open_patches(folder, ["B4", "B3", "B8"])
    source = open_patches(tmp_path / "source", ["B4", "B3", "B8"])
    assert places.input_spec == source.input_spec
    for patch in range(24):
        np.testing.assert_array_equal(places.read(patch), source.read(patch))


def test_chunks_are_not_packed_again(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is packed already: --data_dir takes its source"):
        pack(["--data_dir", str(root), "--save_path", str(tmp_path / "x"), "--bands", "B4", "B8"])
    with pytest.raises(UserError, match="--verify is for packed stores"):
        pack(["--save_path", str(root), "--verify", "--format", "litdata"])
