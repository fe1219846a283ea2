"""What is decoded is limited beforehand, and what cannot be read ends in an error of its own."""

import signal
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import rasterio
from PIL import Image

from benchmarks.trials import Attempt, in_children
from datasets.bigearthnet.lmdb_pages import check_pages
from datasets.seco.folder import read_band
from utils.files import read_file
from utils.images import read_image


def test_a_trial_that_dies_hangs_or_takes_too_much_memory_is_a_failure() -> None:
    def attempt(number: int) -> Attempt:
        end = partial(signal.raise_signal, signal.SIGUSR2)
        ways: list[Callable[[], Any]] = [lambda: None, lambda: 1 / 0, end]
        return f"trial {number}", [*ways, lambda: bytearray(2**31)][number]

    found = {trial.name: trial.failure or "" for trial in in_children(attempt, 0, 4)}
    assert list(found) == ["trial 0", "trial 1", "trial 2", "trial 3"]
    assert found["trial 0"] == ""
    assert "ZeroDivisionError" in found["trial 1"]
    assert found["trial 2"] == f"the process ended with {-signal.SIGUSR2}"
    assert "MemoryError" in found["trial 3"]


def test_files_next_to_a_geotiff_change_nothing(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path = tmp_path / "B4.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for name, image in (("B4.tif", pixels), ("B4.tif.msk", 0 * pixels), ("B4.tif.ovr", pixels)):
            size = {"count": 1, "height": 8, "width": 8, "dtype": "uint8", "compress": "lzw"}
            with rasterio.open(tmp_path / name, "w", "GTiff", **size) as file:
                file.write(image, 1)
    metadata = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>9</NoDataValue></PAMRasterBand>'
    path.with_name("B4.tif.aux.xml").write_text(f"{metadata}</PAMDataset>")
    np.testing.assert_array_equal(read_band(path), pixels)


def test_only_jpeg_png_and_tiff_are_opened(tmp_path: Path) -> None:
    for kind in ("EPS", "GIF", "WEBP", "BMP"):  # EPS would start Ghostscript
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png", kind)
        with pytest.raises(ValueError, match="cannot identify"):
            read_image((tmp_path / "x.png").read_bytes(), "RGB")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(bytes(11))
    assert read_file(path, 11) == bytes(11)
    with pytest.raises(OSError, match="11 bytes, more than the 10 of any such file"):
        read_file(path, 10)


@pytest.mark.parametrize(("count", "size"), [(0, 9), (1, 9), (3, 9000), (400, 30), (400, 3000)])
def test_pages_of_whole_lmdbs_pass_and_those_with_another_number_do_not(
    tmp_path: Path, count: int, size: int
) -> None:
    with lmdb.open(str(tmp_path), map_size=2**24) as environment:
        for part in range(2):  # pages of the first transaction are free after the second
            with environment.begin(write=True) as transaction:
                for number in range(part, count, 2):
                    transaction.put(b"patch %d" % number, bytes(size))
    path = tmp_path / "data.mdb"
    check_pages(path)
    if count < 400:
        return
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as environment:
        more = environment.info()["last_pgno"] + 1
    changed = bytearray(path.read_bytes()[: 4096 * more])
    for meta in (0, 4096):  # one page more than there is
        changed[meta + 136 : meta + 144] = more.to_bytes(8, "little")
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="bytes instead of"):
        check_pages(path)
