"""Packing loses nothing, resumes where it stopped, and refuses what would lose something."""

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from datasets import seco_utils
from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.mini_earth import write_seco
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.patches import SecoPatches
from datasets.seco.pictures import Pictures
from datasets.store import writer as packing
from datasets.store.open import open_patches
from datasets.store.reader import PackedStore
from tests.references.seco_files import pack, write_tif, zip_folder
from tests.references.waiting import HANG_S
from utils.cli import run
from utils.errors import UserError


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three patches in a chunk."""
    monkeypatch.setattr(packing, "_CHUNK", 3)


def read(patches: Any, patch: int) -> np.ndarray | tuple[str, str]:
    """Return pixels, or what is bad about them."""
    try:
        return patches.read(patch)
    except BadPatchError as error:
        return error.name.removeprefix(str(patches.root)), error.reason


def assert_same_patches(source: Any, store: PackedStore) -> None:
    assert store.patch_shape == source.patch_shape
    assert store.starts.tolist() == source.starts.tolist()
    assert store.input_spec == source.input_spec
    for patch in range(int(source.starts[-1])):
        assert store.name(patch) == source.name(patch)
        expected, found = read(source, patch), read(store, patch)
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found, expected)
        else:
            assert found == expected


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("num_workers", ["0", "2"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.difference("packed")
def test_store_holds_what_its_source_holds(
    seco_copy: Path, tmp_path: Path, zipped: bool, num_workers: str
) -> None:
    seco_utils.main(["--data_dir", str(seco_copy)])
    data_dir = zip_folder(seco_copy, tmp_path / "s.zip", "above/") if zipped else seco_copy
    before = hashes(seco_copy)
    store = tmp_path / "store"
    pack(data_dir, store, "--bands", *ALL_BANDS, "--num_workers", num_workers)
    assert hashes(seco_copy) == before
    for bands in (RGB_BANDS, ALL_BANDS, ("B8", "B3", "B4", "B1"), ("B12",)):
        assert_same_patches(SecoPatches(data_dir, bands), PackedStore(store, bands))
    assert not list(store.glob("packing*"))


def test_ragged_places_and_pictures_are_packed(
    seco_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = next(seco_copy.glob("000002"))
    for date in [path for path in sorted(place.iterdir()) if path.is_dir()][1:]:
        shutil.rmtree(date)
    pack(seco_copy, tmp_path / "ragged")
    assert_same_patches(SecoPatches(seco_copy), PackedStore(tmp_path / "ragged", RGB_BANDS))

    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (tmp_path / "p" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise * (number != 2)).save(tmp_path / "p" / "a" / f"{number}.png")
    with pytest.raises(UserError, match="more than 1% of 4 samples are bad"):
        pack(tmp_path / "p", tmp_path / "too_bad")
    Image.fromarray(noise).save(tmp_path / "p" / "a" / "2.png")
    pack(tmp_path / "p", tmp_path / "pictures")
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("next: python main_pretrain.py")
    assert " --data_mode moco " in last  # pictures have no dates
    assert last.endswith(" --crop_size 8")
    (tmp_path / "list").write_text("3.png\n1.png\n")
    for image_list in (None, tmp_path / "list"):
        store = PackedStore(tmp_path / "pictures", RGB_BANDS, image_list)
        assert_same_patches(Pictures(tmp_path / "p", image_list), store)


@pytest.mark.usefixtures("small_chunks")
def test_flaws_of_the_source_are_those_of_the_store(
    seco_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.seco.bad_patches.MAX_BAD_FRACTION", 0.5)
    seco_utils.main(["--data_dir", str(seco_copy)])
    dates = [path for path in sorted(seco_copy.glob("*/*")) if path.is_dir()]
    (dates[1] / "B3.tif").unlink()
    (dates[2] / "B8.tif").write_bytes(b"no picture")
    (dates[3] / "B4.tif").write_bytes(b"")
    zeros = tmp_path / "zeros.tif"
    write_tif(zeros, np.zeros((48, 48), np.uint8))
    for band in RGB_BANDS:
        shutil.copy(zeros, dates[5] / f"{band}.tif")
    shutil.copy(zeros, dates[6] / "B4.tif")
    pack(seco_copy, tmp_path / "store", "--bands", *RGB_BANDS, "B8")
    for bands in (RGB_BANDS, ("B8",), ("B4",), ("B4", "B8"), ("B3", "B2")):
        assert_same_patches(SecoPatches(seco_copy, bands), PackedStore(tmp_path / "store", bands))
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["flaws"][0] == {"patch": 1, "band": "B3", "reason": "is missing"}


def test_manifest_describes_the_store(seco_root: Path, tmp_path: Path) -> None:
    pack(seco_root, tmp_path / "store", "--bands", *RGB_BANDS, "B8")
    content = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert (content["format_version"], content["height"], content["width"]) == (1, 48, 48)
    assert content["places"] == SecoPatches(seco_root).places
    assert content["unit"] == "255 times reflectance, truncated"
    assert content["quantiles"]["B4"] == [0, 129]
    for group in content["groups"]:
        for shard in group["shards"]:
            data = (tmp_path / "store" / shard["file"]).read_bytes()
            assert shard["sha256"] == hashlib.sha256(data).hexdigest()


class Interrupted(BaseException):
    """Ends a packing as nothing else does."""


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("after", [1, 4, 7])
def test_interrupted_packing_resumes(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    pack(seco_root, tmp_path / "whole")
    read: list[int] = []
    original = SecoPatches.read_plane

    def read_plane(self: SecoPatches, patch: int, channel: int) -> np.ndarray:
        if patch // 3 == after and stop:
            raise Interrupted
        read.append(patch)
        return original(self, patch, channel)

    stop = True
    monkeypatch.setattr(SecoPatches, "read_plane", read_plane)
    with pytest.raises(Interrupted):
        pack(seco_root, tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()
    with pytest.raises(UserError, match="is not packed to the end: run the same command"):
        open_patches(tmp_path / "store", RGB_BANDS)
    stop = False
    read.clear()
    (tmp_path / "store" / ".packing.rows.7.partial").touch()  # of a process that was killed
    pack(seco_root, tmp_path / "store")
    assert sorted(set(read)) == list(range(3 * after, 24))
    assert hashes(tmp_path / "store") == hashes(tmp_path / "whole")


def test_killed_packing_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_seco(tmp_path / "seco", num_places=8, num_dates=5, size=48, bands=RGB_BANDS)
    pack(tmp_path / "seco", tmp_path / "whole")
    monkeypatch.setattr(packing, "_CHUNK", 2)
    monkeypatch.setattr(packing, "_SYNC_BYTES", 0)
    flush, times, is_there = packing._Bitmap.flush, itertools.count(), multiprocessing.Event()

    def flush_and_stay(bitmap: packing._Bitmap) -> None:
        flush(bitmap)
        if next(times) == 10:
            is_there.set()
            signal.pause()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing._Bitmap, "flush", flush_and_stay)
        arguments = (tmp_path / "seco", tmp_path / "store", "--num_workers", "2")
        running = multiprocessing.Process(target=pack, args=arguments)
        running.start()
    assert is_there.wait(HANG_S)
    running.kill()
    running.join()
    assert not (tmp_path / "store" / "manifest.json").exists()
    read: list[int] = []
    original = SecoPatches.read_plane

    def read_plane(self: SecoPatches, patch: int, channel: int) -> np.ndarray:
        read.append(patch)
        return original(self, patch, channel)

    monkeypatch.setattr(SecoPatches, "read_plane", read_plane)
    pack(tmp_path / "seco", tmp_path / "store")
    assert len(set(read)) <= 20  # of 40: ten of 20 chunks were finished
    assert hashes(tmp_path / "store") == hashes(tmp_path / "whole")


def test_complete_store_is_left_alone(seco_root: Path, tmp_path: Path) -> None:
    pack(seco_root, tmp_path / "store")
    before = hashes(tmp_path / "store")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    pack(seco_root, tmp_path / "store")
    assert hashes(tmp_path / "store") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.usefixtures("small_chunks")
def test_repaired_source_is_read_again(seco_copy: Path, tmp_path: Path) -> None:
    pack(seco_copy, tmp_path / "whole")
    path = next(seco_copy.glob("000000/*/B4.tif"))
    path.rename(tmp_path / "away.tif")
    with pytest.raises(UserError, match=r"more than 1% of 24 samples are bad, 1 so far"):
        pack(seco_copy, tmp_path / "store")
    (tmp_path / "away.tif").rename(path)
    pack(seco_copy, tmp_path / "store")
    assert hashes(tmp_path / "store") == hashes(tmp_path / "whole")


def test_lost_file_of_an_interrupted_packing_is_written_again(
    seco_root: Path, tmp_path: Path
) -> None:
    pack(seco_root, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "store")
    (tmp_path / "store" / "manifest.json").unlink()
    begin(seco_root, tmp_path / "store").flush()
    (tmp_path / "store" / "rgb-00000.u8").unlink()
    pack(seco_root, tmp_path / "store")
    assert hashes(tmp_path / "store") == hashes(tmp_path / "whole")


def begin(source: Path, store: Path, bands: tuple[str, ...] = RGB_BANDS) -> packing._Bitmap:
    """Return the bitmap of a packing of which all rows are written."""
    store.mkdir(exist_ok=True)
    plan = packing.plan_store(SecoPatches(source, bands))
    bitmap = packing._Bitmap(store / packing.BITMAP_NAME, plan, source)
    bitmap.done[:] = True
    return bitmap


def test_full_disk_is_found_before_the_first_byte(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(UserError, match=r"store has 0\.0 GB free, but 0\.1 GB are needed"):
        pack(seco_root, tmp_path / "store")
    assert not list((tmp_path / "store").glob("*.u8"))


def test_disk_that_fills_up_loses_nothing(
    seco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A limit on the size of files stands in for a full disk; the kernel enforces both."""
    pack(seco_root, tmp_path / "whole")
    monkeypatch.setattr(packing, "_CHUNK", 2)
    create = packing.create_files

    def limited(*args: Any) -> None:
        create(*args)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    def pack_limited() -> None:
        monkeypatch.setattr(packing, "create_files", limited)  # in this process
        run(lambda: pack(seco_root, tmp_path / "store", "--num_workers", "1"))

    running = multiprocessing.Process(target=pack_limited)
    running.start()
    running.join(HANG_S)
    assert running.exitcode == 2
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: cannot write {tmp_path / 'store' / 'rgb-00000.u8'}: File")
    assert "resumes where it stopped" in message
    bits = (tmp_path / "store" / packing.BITMAP_NAME).read_bytes()[32:]
    assert any(bits)  # some rows are not written again
    pack(seco_root, tmp_path / "store")
    assert hashes(tmp_path / "store") == hashes(tmp_path / "whole")


def test_errors_of_files_that_are_open_name_them(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = packing.plan_store(SecoPatches(seco_root))
    packing.create_files(plan, tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"rgb-00000\.u8: No space left on device: free some"):
        packing.sync_files(plan, tmp_path)


def test_two_packers_on_one_target_exclude_each_other(seco_root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with (
        FileLock(store / packing.LOCK_NAME),
        pytest.raises(UserError, match=r"another process packs into .*store: wait for it"),
    ):
        pack(seco_root, store)
    (store / packing.LOCK_NAME).touch()  # left by a process that was killed
    pack(seco_root, store)
    assert PackedStore(store).patch_shape == (3, 48, 48)


def occupied(store: Path) -> None:
    store.mkdir()
    (store / "packing.jsonl").touch()  # of an interrupted packing before December 2026


def packed_with_other_bands(store: Path, seco_copy: Path) -> None:
    pack(seco_copy, store, "--bands", "B2")


def begun_with_other_bands(store: Path, seco_copy: Path) -> None:
    packed_with_other_bands(store, seco_copy)
    (store / "manifest.json").unlink()
    begin(seco_copy, store, ("B2",)).flush()


def begun_from_another_source(store: Path, seco_copy: Path) -> None:
    begin(Path(shutil.copytree(seco_copy, store.with_name("other"))), store).flush()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda store, _: occupied(store), r"holds packing\.jsonl: choose .*, or delete it if it"),
        (packed_with_other_bands, "is a store of other data or --bands"),
        (begun_with_other_bands, "holds the beginning of a store of other data or --bands"),
        (begun_from_another_source, "or its source has changed"),
    ],
)
def test_target_that_holds_something_else_is_left_alone(
    seco_root: Path, tmp_path: Path, prepare: Callable[[Path, Path], None], message: str
) -> None:
    store = tmp_path / "store"
    prepare(store, seco_root)
    before = hashes(store)
    with pytest.raises(UserError, match=message):
        pack(seco_root, store)
    assert hashes(store) == before


def test_contract_broken_by_the_source_stops_the_packing(seco_copy: Path, tmp_path: Path) -> None:
    write_tif(next(seco_copy.glob("000003/*/B4.tif")), np.ones((24, 24), np.uint8))
    with pytest.raises(UserError, match=r"B4\.tif has 24 x 24 px .* need the same size"):
        pack(seco_copy, tmp_path / "store", "--num_workers", "1")


def test_killed_worker_is_one_sentence_and_leaves_no_process(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = os.getpid()

    def die(self: SecoPatches, patch: int, channel: int) -> np.ndarray:
        assert os.getpid() != parent
        os._exit(9)

    monkeypatch.setattr(SecoPatches, "read_plane", die)
    before = set(multiprocessing.active_children())  # of loaders that are not yet collected
    with pytest.raises(UserError, match="was killed, perhaps because"):
        pack(seco_root, tmp_path / "store", "--num_workers", "2")
    assert set(multiprocessing.active_children()) <= before
