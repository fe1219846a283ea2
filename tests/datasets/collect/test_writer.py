"""Files of a place: what is in them, where they are, and that they are all there or none."""

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import CRSError

from datasets.bands import ALL_BANDS, RESOLUTION_M
from datasets.collect.scenes import Array
from datasets.collect.utm import utm_crs
from datasets.collect.writer import PlaceWriter, convert, stretch
from tests.references.fetch_runs import tree
from tests.references.place_files import (
    NEW,
    OLD,
    PLACE,
    SETTINGS,
    images,
    write,
    writer_in,
)
from utils.errors import UserError
from utils.locks import locked


def read(path: Path) -> Array:
    with rasterio.open(path) as file:
        image: Array = file.read(1)
    return image


@pytest.mark.parametrize("bands", [ALL_BANDS, ("B4", "B8A")])
def test_the_layout_is_that_of_the_archives(tmp_path: Path, bands: tuple[str, ...]) -> None:
    write(writer_in(tmp_path, replace(SETTINGS, bands=bands)))

    assert set(tree(tmp_path)) == {
        f"000007/{name}/{file}"
        for name in (OLD, NEW)
        for file in [*(f"{band}.tif" for band in bands), "metadata.json"]
    }


@pytest.mark.difference("collect-dtype")
def test_every_digital_number_becomes_255_times_reflectance_truncated() -> None:
    numbers = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    expected = [min(dn * 255 // 10_000, 255) for dn in range(65_536)]

    stored = convert(numbers, "uint8")

    assert stored.dtype == np.uint8
    assert stored.ravel().tolist() == expected


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.difference("collect-jpeg")
def test_files_hold_the_pixels(tmp_path: Path, dtype: str) -> None:
    write(writer_in(tmp_path, replace(SETTINGS, dtype=dtype)))

    for band, image in images(1).items():
        stored = read(tmp_path / "000007" / OLD / f"{band}.tif")
        expected = image if dtype == "uint16" else np.minimum(image / 10_000, 1) * 255 // 1
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
@pytest.mark.difference("collect-georeference")
def test_files_say_where_their_pixels_are_on_the_earth(tmp_path: Path, compress: str) -> None:
    write(writer_in(tmp_path, replace(SETTINGS, compress=compress)))

    for band, size in RESOLUTION_M.items():
        with rasterio.open(tmp_path / "000007" / OLD / f"{band}.tif") as file:
            assert file.crs == CRS.from_epsg(32756)
            assert file.transform[:6] == (size, 0, 340020, 0, -size, 6320020)
            assert file.bounds == PLACE.grid.bounds
            assert (file.driver, file.count) == ("GTiff", 1)
            assert file.profile["compress"] == compress


def test_metadata_and_record_describe_the_files(tmp_path: Path) -> None:
    record = write(writer_in(tmp_path))
    files = tree(tmp_path / "000007")
    metadata = json.loads(files[f"{OLD}/metadata.json"])
    content = files[f"{OLD}/B9.tif"]

    digest = hashlib.sha256(content).hexdigest()
    assert metadata.pop("files")["B9.tif"] == {"bytes": len(content), "sha256": digest}
    assert metadata.pop("bands")["B9"] == {"resolution_m": 60}
    assert metadata == {
        "collection": "made up",
        "scene": OLD,
        "time": "2020-01-01T10:10:10+00:00",
        "cloud_percent": 1.5,
        "clear_fraction": 0.97,
        "valid_fraction": 1.0,
        "processing_baseline": "05.09",
        "latitude": -33.25,
        "longitude": 151.5,
        "crs": "EPSG:32756",
        "transform": [10, 0, 340020, 0, -10, 6320020],
        "unit": "255 * reflectance",
        "properties": {"MGRS_TILE": "56HLH"},
    }
    assert (record.place, record.outcome, record.scenes) == (7, "done", (OLD, NEW))
    assert record.num_bytes == sum(map(len, files.values()))
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    assert record.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_many_threads_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    settings = replace(SETTINGS, bands=("B4", "B12"))
    places = [
        replace(PLACE, number=n, grid=replace(PLACE.grid, epsg=32756 + n % 2)) for n in range(8)
    ]
    one, many = writer_in(tmp_path / "one", settings), writer_in(tmp_path / "many", settings)
    for place in places:
        write(one, place, place.number)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda place: write(many, place, place.number), places))

    assert tree(tmp_path / "one") == tree(tmp_path / "many")


def test_files_are_on_the_disk_before_their_place_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    rename = Path.rename

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(str(path))
        if path.is_dir():  # as on some network disks
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    write(writer_in(tmp_path))

    staged = tmp_path.resolve() / ".partial-0-of-1" / "000007"
    end = events.index("rename")
    files = {str(staged / name) for name in tree(tmp_path / "000007")}
    assert set(events[:end]) == files | {str(staged), str(staged / OLD), str(staged / NEW)}
    assert events[end + 1 :] == [str(tmp_path.resolve())]


@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "link", "link to nothing"])
def test_what_a_killed_run_or_a_stranger_left_at_a_place_is_replaced(
    tmp_path: Path, kind: str
) -> None:
    root, elsewhere = tmp_path / "d", tmp_path / "elsewhere"
    writer, target = writer_in(root), root / PLACE.name
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    (writer.staging / PLACE.name / "a scene").mkdir(parents=True)
    if kind == "folder":
        write(writer, seed=5)
        (target / "old").mkdir()
    elif kind == "file":
        target.touch()
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        target.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")

    write(writer)
    writer.clear()

    write(writer_in(tmp_path / "fresh"))
    assert tree(target) == tree(tmp_path / "fresh" / PLACE.name)
    assert [path.name for path in root.iterdir()] == [PLACE.name]
    assert (elsewhere / "mine").exists()


def test_a_pipe_in_the_place_of_staging_is_not_waited_for(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    os.mkfifo(writer.staging)

    writer.clear()

    with pytest.raises(UserError, match=r"cannot write .*000007"):
        write(writer)


def test_staging_of_other_numbers_of_shards_is_cleared_but_not_that_of_other_shards(
    tmp_path: Path,
) -> None:
    for name in (".partial-0-of-1", ".partial-0-of-4", ".partial-1-of-4", ".partial-1-of-2"):
        (tmp_path / name / "000001").mkdir(parents=True)

    PlaceWriter(tmp_path, SETTINGS, {}, (0, 2)).clear()

    assert [path.name for path in tmp_path.iterdir()] == [".partial-1-of-2"]


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let the system refuse to write larger files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_in(tmp_path)
    match = r"cannot write .*000007: File too large: raise the limit .*again to resume"
    with largest_file(400), pytest.raises(UserError, match=match):
        write(writer)
    assert tree(tmp_path) == {}

    def fail(path: Path, target: Path) -> Path:
        raise OSError(122, "Disk quota exceeded")

    with monkeypatch.context() as full:
        full.setattr(Path, "rename", fail)
        with pytest.raises(UserError, match="Disk quota exceeded"):
            write(writer)
    assert tree(tmp_path) == {}
    write(writer)
    assert len(tree(tmp_path)) == 26


def test_a_collection_that_is_lost_is_not_begun_again(tmp_path: Path) -> None:
    writer = writer_in(tmp_path / "seco")
    write(writer)
    with locked(tmp_path / "seco/journal.lock"):
        (tmp_path / "seco").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="seco was removed or renamed"):
            write(writer)
    assert not (tmp_path / "seco").exists()


class Killed(BaseException):
    """Stands for a process that ends here: nothing in the writer may catch it."""


def test_whenever_a_run_is_killed_a_place_is_whole_or_absent_and_the_next_run_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, bands=("B4", "B9"))
    write(writer_in(tmp_path / "whole", settings))
    whole, left = tree(tmp_path / "whole"), 0

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    monkeypatch.setattr(os, "fsync", fsync)
    seen = []
    for instant in range(1, 11):  # 2 x (3 files and their folder), the place, the collection
        root = tmp_path / str(instant)
        writer, left = writer_in(root, settings), instant
        with pytest.raises(Killed):
            write(writer)
        seen.append((root / "000007").exists())
        again = writer_in(root, settings)
        again.clear()
        write(again)
        again.clear()
        assert tree(root) == whole
    assert seen == [False] * 9 + [True]


def test_a_machine_without_tables_of_coordinates_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_table(code: int) -> CRS:
        raise CRSError("Cannot find proj.db")

    monkeypatch.setattr("datasets.collect.utm.CRS", SimpleNamespace(from_epsg=no_table))
    with pytest.raises(UserError, match="unset PROJ_DATA"):
        utm_crs.__wrapped__(32701)


@pytest.mark.difference("collect-previews")
def test_previews_are_next_to_the_collection_with_the_oldest_date_first(tmp_path: Path) -> None:
    save_path = tmp_path / "collection"
    write(writer_in(save_path, replace(SETTINGS, preview=True)))

    with Image.open(tmp_path / "collection_previews" / "000007.png") as picture:
        strip = np.asarray(picture)
    assert strip.shape == (12, 24, 3)
    for date, seed in enumerate((1, 0)):  # the newest window is written first
        bands = [convert(images(seed)[band], "uint8") for band in ("B4", "B3", "B2")]
        part = strip[:, 12 * date : 12 * date + 12].transpose(2, 0, 1)
        np.testing.assert_array_equal(part, stretch(np.stack(bands)))
    shutil.rmtree(tmp_path / "collection_previews")
    (tmp_path / "collection_previews").write_text("a file")
    shutil.rmtree(save_path)
    with pytest.raises(UserError, match="collection_previews"):
        write(writer_in(save_path, replace(SETTINGS, preview=True)))
    assert not (save_path / "000007").exists()


def test_a_preview_is_stretched_by_the_published_quantiles() -> None:
    # Red 0 .. 129, green 2 .. 103, blue 3 .. 88: the low end is black, the high one white.
    image = np.array([[[0, 129, 200]], [[2, 103, 0]], [[3, 88, 45]]], dtype=np.uint8)
    blue = int((45 - 3) / (88 - 3) * 255)
    assert stretch(image).tolist() == [[[0, 255, 255]], [[0, 255, 0]], [[0, 255, blue]]]
