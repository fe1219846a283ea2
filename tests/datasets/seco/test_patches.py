"""Reading SeCo against plain rasterio, slow loops and damaged copies of a tiny data set."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from datasets import seco_packed, seco_utils
from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.seco.bad_patches import (
    BadPatchError,
    ConstantPatches,
    OnBadPatch,
    are_constant,
)
from datasets.seco.folder import SecoFolder, decode_band
from datasets.seco.patches import SecoPatches
from datasets.seco.samples import PatchDataset
from tests.references.seco_files import read_tif, write_tif
from utils.errors import UserError

Damage = Callable[[Path], None]


def seco_dataset(
    root: Path, bands: Sequence[str] = RGB_BANDS, num_dates: int = 3, **kwargs: Any
) -> PatchDataset:
    return PatchDataset(SecoPatches(root, bands), num_dates, **kwargs)


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


@pytest.mark.difference("order")
def test_places_and_dates_are_sorted_by_number_then_by_name(tmp_path: Path) -> None:
    for place in ("10", "9", "0011", "b", "a", "0009", "9b"):
        for date in ("20200101T1_T2", "20191101T1_T2", "2", "11"):
            (tmp_path / place / date).mkdir(parents=True)
            (tmp_path / place / date / "B2.tif").touch()
    places = [place.split("/") for place in SecoFolder(tmp_path, ("B2",)).places]
    assert [name for name, *_ in places] == ["0009", "9", "10", "0011", "9b", "a", "b"]
    assert all(d == ["2", "11", "20191101T1_T2", "20200101T1_T2"] for _, *d in places)


@pytest.mark.difference("previews")
def test_previews_and_stray_files_and_folders_are_no_places_and_no_dates(seco_copy: Path) -> None:
    place = seco_copy / folders(seco_copy)[0]
    assert len(list(place.glob("*.tif"))) == 4  # the previews are there
    expected = ["/".join([name, *folders(seco_copy / name)]) for name in folders(seco_copy)]
    for folder in (seco_copy, place, place / folders(place)[0]):
        (folder / ".DS_Store").touch()
        (folder / "README.txt").touch()
        (folder / "preview.tif").touch()
        (folder / ".hidden" / "x").mkdir(parents=True)
        (folder / ".hidden" / "x" / "B2.tif").touch()
    (seco_copy / "empty_place").mkdir()
    (place / "empty_date").mkdir()
    (place / "date_without_tif").mkdir()
    (place / "date_without_tif" / "metadata.json").touch()
    assert SecoFolder(seco_copy, ("B2",)).places == expected


def test_patches_are_what_rasterio_reads_in_the_order_of_the_bands(seco_root: Path) -> None:
    bands = ["B3", "B4", "B2"]
    dataset = seco_dataset(seco_root, bands, every_date=True)
    dates = [place / date for place in sorted(seco_root.iterdir()) for date in folders(place)]
    assert len(dataset) == len(dates) == 24
    assert dataset.source.patch_shape == (3, 48, 48)
    for index in (0, 5, 23):
        sample = dataset[0, index]
        assert sample["patches"].dtype == torch.uint8
        assert (sample["epoch"], sample["index"], sample["bad"]) == (0, index, [])
        expected = np.stack([read_tif(dates[index] / f"{band}.tif") for band in bands])
        np.testing.assert_array_equal(sample["patches"].numpy(), expected[None])


@pytest.mark.parametrize(("band", "factor"), [("B5", 2), ("B1", 6)])
def test_coarse_bands_are_interpolated_between_pixel_centres(
    tmp_path: Path, band: str, factor: int
) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (2, 3), dtype=np.uint8)
    height, width = 2 * factor, 3 * factor
    write_tif(tmp_path / "0/0" / f"{band}.tif", coarse)
    write_tif(tmp_path / "0/0/B2.tif", np.ones((height, width), np.uint8))
    quantiles = {"quantiles": {band: [0, 255]}}
    (tmp_path / "quantiles.json").write_text(json.dumps(quantiles))

    patch = seco_dataset(tmp_path, ["B2", band], every_date=True)[0, 0]["patches"][0, 1]

    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) / factor - 0.5, 0), 1)
            x = min(max((column + 0.5) / factor - 0.5, 0), 2)
            top, left = min(int(y), 0), min(int(x), 1)
            dy, dx = y - top, x - left
            above = (1 - dx) * coarse[top, left] + dx * coarse[top, left + 1]
            below = (1 - dx) * coarse[top + 1, left] + dx * coarse[top + 1, left + 1]
            assert patch[row, column] == pytest.approx((1 - dy) * above + dy * below, abs=1.0)


def test_all_bands_share_the_10_m_grid_also_without_a_band_of_10_m(seco_copy: Path) -> None:
    seco_utils.main(["--data_dir", str(seco_copy)])
    for bands in (["B1"], ["B1", "B12"], ALL_BANDS):
        dataset = seco_dataset(seco_copy, bands, num_dates=2)
        assert dataset.source.patch_shape == (len(bands), 48, 48)
        assert dataset[0, 0]["patches"].shape == (2, len(bands), 48, 48)


def test_size_that_60_m_do_not_divide_is_covered_by_rounded_pixels(tmp_path: Path) -> None:
    write_tif(tmp_path / "0/0/B2.tif", np.ones((64, 64), np.uint8))
    write_tif(tmp_path / "0/0/B1.tif", np.ones((11, 10), np.uint8))
    (tmp_path / "quantiles.json").write_text('{"quantiles": {"B1": [0, 9]}}')
    assert seco_dataset(tmp_path, ["B1", "B2"], 1)[0, 0]["patches"].shape == (1, 2, 64, 64)


def test_too_few_dates_name_the_place_and_the_need(seco_copy: Path) -> None:
    place = seco_copy / folders(seco_copy)[2]
    for date in folders(place)[1:]:
        shutil.rmtree(place / date)
    with pytest.raises(UserError, match=rf"{place.name} has 1 date, .* needs 3 of each place"):
        seco_dataset(seco_copy)
    assert len(seco_dataset(seco_copy, every_date=True)) == 21


def test_wrong_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is missing"):
        seco_dataset(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a whole zip"):
        seco_dataset(tmp_path / "file")
    with pytest.raises(UserError, match=r"holds no SeCo places.*B4.tif$"):
        seco_dataset(tmp_path)
    (tmp_path / "seco.zip").touch()
    with pytest.raises(UserError, match=r"holds no SeCo places.*: did you mean .*/seco.zip"):
        seco_dataset(tmp_path)


def test_band_that_the_data_set_does_not_have_is_refused_at_once(seco_copy: Path) -> None:
    for path in seco_copy.rglob("B8.tif"):
        path.unlink()
    with pytest.raises(UserError, match=r"no band B8, .* choose bands among B1 B2 B3 B4 B5 "):
        seco_dataset(seco_copy, ["B8", "B4"])


def first_date(root: Path) -> Path:
    place = root / folders(root)[0]
    return place / folders(place)[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def not_a_tiff(path: Path) -> None:
    """A PNG, which GDAL opens by default."""
    size = {"count": 1, "height": 48, "width": 48}
    with rasterio.open(path, "w", driver="PNG", dtype="uint8", **size) as file:
        file.write(np.ones((1, 48, 48), np.uint8))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "B3.tif is not a readable GeoTIFF"),
        (lambda path: path.write_bytes(b""), "B3.tif is not a readable GeoTIFF"),
        (become_a_pipe, "B3.tif is not a readable GeoTIFF"),
        (not_a_tiff, "B3.tif is not a readable GeoTIFF"),
        (Path.unlink, "B3.tif is missing"),
    ],
)
@pytest.mark.difference("bad-patches")
def test_damaged_band_names_its_file(seco_copy: Path, damage: Damage, reason: str) -> None:
    damage(first_date(seco_copy) / "B3.tif")
    with pytest.raises(BadPatchError, match=reason) as caught:
        seco_dataset(seco_copy, every_date=True)[0, 0]
    assert caught.value.name == str(first_date(seco_copy) / "B3.tif")
    assert "on_bad_patch skip" in str(caught.value)


def test_patch_of_zeros_names_its_folder(seco_copy: Path) -> None:
    folder = first_date(seco_copy)
    for band in ("B2", "B3", "B4"):
        write_tif(folder / f"{band}.tif", np.zeros((48, 48), np.uint8))
    with pytest.raises(BadPatchError, match="holds only zeros") as caught:
        seco_dataset(seco_copy, every_date=True)[0, 0]
    assert caught.value.name == str(folder)
    write_tif(folder / "B3.tif", np.eye(48, dtype=np.uint8))
    assert seco_dataset(seco_copy, every_date=True)[0, 0]["bad"] == []


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.ones((48, 48), np.uint16), "B3.tif has 1 band of uint16, but .* min"),
        (
            np.ones((48, 48), np.float32),
            "B3.tif has 1 band of float32, but .* is one band of uint8",
        ),
        (np.ones((3, 48, 48), np.uint8), "B3.tif has 3 bands"),
        (np.ones((24, 48), np.uint8), "B3.tif has 24 x 48 px of 10 m, but .* are 48 x 48 px"),
    ],
)
@pytest.mark.parametrize("on_bad_patch", ["raise", "skip"])
@pytest.mark.difference("unit")
def test_broken_contract_is_an_error_that_cannot_be_skipped(
    seco_copy: Path, image: np.ndarray, reason: str, on_bad_patch: OnBadPatch
) -> None:
    write_tif(first_date(seco_copy) / "B3.tif", image)
    with pytest.raises(UserError, match=reason) as caught:
        seco_dataset(seco_copy, every_date=True, on_bad_patch=on_bad_patch)[0, 0]
    assert not isinstance(caught.value, BadPatchError)


def test_reflectance_that_was_cut_to_0_and_1_is_refused(seco_copy: Path, tmp_path: Path) -> None:
    for path in seco_copy.glob("*/*/B*.tif"):
        write_tif(path, (read_tif(path) > 40).astype(np.uint8))
    flags = ["--data_dir", str(seco_copy)]
    with pytest.raises(UserError, match=f"{seco_copy} holds values of 0 and 1 only"):
        seco_packed.main([*flags, "--save_path", str(tmp_path / "store"), "--num_workers", "0"])
    with pytest.raises(UserError, match=f"{seco_copy} holds values of 0 and 1 only"):
        seco_utils.main(flags)
    assert not (seco_copy / "quantiles.json").exists()
    assert not (tmp_path / "store").exists()


def test_place_of_another_size_is_refused(seco_copy: Path) -> None:
    folder = first_date(seco_copy).parent
    for path in folder.rglob("B[234].tif"):
        write_tif(path, np.ones((48, 48), np.uint8))
    other = seco_copy / folders(seco_copy)[3]
    for path in other.rglob("B[234].tif"):
        write_tif(path, np.ones((96, 96), np.uint8))
    with pytest.raises(UserError, match=rf"{other}.* has 96 x 96 px .* need the same size"):
        seco_dataset(seco_copy)[0, 3]


def test_skipped_patch_is_replaced_by_the_next_good_one(
    seco_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.seco.bad_patches.MAX_BAD_FRACTION", 0.5)
    dates = [place / date for place in sorted(seco_copy.iterdir()) for date in folders(place)]
    for folder in (dates[0], dates[22], dates[23]):
        truncate(folder / "B3.tif")
    dataset = seco_dataset(seco_copy, every_date=True, on_bad_patch="skip")
    sample = dataset[5, 22]
    assert torch.equal(sample["patches"], dataset[0, 1]["patches"])
    assert (sample["epoch"], sample["index"]) == (5, 22)
    assert sample["bad"] == [str(dates[i] / "B3.tif") for i in (22, 23, 0)]
    assert dataset[0, 1]["bad"] == []


def test_constant_patches_are_found_and_named_once() -> None:
    patches = np.full((2, 3, 2, 40, 40), 7, np.uint8)
    patches[:, :, 1] = 0  # the bands differ, each of them is constant
    patches[0, 1, 1, 20, 5] = 9
    patches[1, 0, 0, 39, 39] = 9  # a single pixel, outside of those that are looked at first
    expected = [[True, False, True], [False, True, True]]
    assert are_constant(patches).tolist() == expected
    watcher = ConstantPatches()
    with pytest.warns(UserWarning, match="is constant") as found:
        watcher.add(["1/a", "2/b", "2/b", *(f"3/{number}" for number in range(100))])
    texts = [str(each.message) for each in found]
    assert [text.split()[1] for text in texts] == ["1/a", "2/b", *(f"3/{n}" for n in range(18))]
    assert "and perhaps others" in texts[-1]


def test_names_of_constant_patches_come_with_the_batch(seco_copy: Path) -> None:
    for path in first_date(seco_copy).glob("B*.tif"):
        write_tif(path, np.full_like(decode_band(path.read_bytes(), "a"), 5))
    dataset = seco_dataset(seco_copy, every_date=True)
    name = first_date(seco_copy).relative_to(seco_copy).as_posix()
    assert dataset[0, 0]["constant"] == [name]
    assert dataset[0, 1]["constant"] == []


def test_too_many_bad_patches_in_a_row_end_the_search(seco_copy: Path) -> None:
    truncate(first_date(seco_copy) / "B3.tif")
    with pytest.raises(UserError, match=r"more than 1% of 24 samples are bad, 1 so far, such as"):
        seco_dataset(seco_copy, every_date=True, on_bad_patch="skip")[0, 0]
