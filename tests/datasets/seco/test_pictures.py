"""Users' own pictures: formats, folder or zip, lists, and files that are not what they seem."""

import os
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.seco.bad_patches import BadPatchError, OnBadPatch
from datasets.seco.pictures import Pictures
from datasets.seco.samples import PatchDataset
from utils.errors import UserError
from utils.input_spec import IMAGENET_MEAN, IMAGENET_STD

ROOT = Path(__file__).resolve().parents[3]
EUROSAT = ROOT.parent / "shared" / "data" / "EuroSAT_RGB.zip"


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


def picture_dataset(root: Path, **kwargs: Any) -> PatchDataset:
    return PatchDataset(Pictures(root), every_date=True, **kwargs)


def pack(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*"), reverse=True):
            file.write(path, path.relative_to(folder).as_posix())
    return archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures in three formats, and what must not be taken for one."""
    root = tmp_path / "pictures"
    save(root / "world/b/2.PNG", pixels(2))
    save(root / "world/b/10.png", pixels(10))
    save(root / "world/a/1.jpg", pixels(1))
    save(root / "world/c.tiff", pixels(3))
    (root / ".DS_Store").touch()
    (root / "world/labels.csv").touch()
    save(root / "world/a/._1.jpg", pixels(4))
    save(root / "__MACOSX/world/a/1.jpg", pixels(5))
    save(root / ".cache/1.jpg", pixels(6))
    return root


NAMES = ["world/a/1.jpg", "world/b/10.png", "world/b/2.PNG", "world/c.tiff"]


@pytest.fixture(params=["folder", "zip"])
def either(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder, or a zip of it."""
    return pack(folder, tmp_path / "p.zip") if request.param == "zip" else folder


def test_samples_are_the_sorted_pictures_without_stray_files(folder: Path, either: Path) -> None:
    dataset = picture_dataset(either)
    assert [dataset.source.name(i) for i in range(len(dataset))] == NAMES
    assert dataset.source.patch_shape == (3, 8, 8)
    spec = dataset.source.input_spec
    assert (spec.bands, spec.mean, spec.std) == (("R", "G", "B"), IMAGENET_MEAN, IMAGENET_STD)
    decoded = np.asarray(Image.open(folder / NAMES[0]))
    for index, expected in enumerate([decoded, pixels(10), pixels(2), pixels(3)]):
        sample = dataset[4, index]
        assert (sample["patches"].shape, sample["patches"].dtype) == ((1, 3, 8, 8), torch.uint8)
        np.testing.assert_array_equal(sample["patches"][0], expected.transpose(2, 0, 1))
        assert (sample["epoch"], sample["index"], sample["bad"]) == (4, index, [])


def test_forked_and_spawned_workers_open_the_zip_for_themselves(
    folder: Path, tmp_path: Path
) -> None:
    dataset = picture_dataset(pack(folder, tmp_path / "p.zip"))
    keys = [(0, index) for index in [*range(len(dataset))] * 5]
    expected = [dataset[key]["patches"] for key in keys]  # the handle is open
    loader = DataLoader(dataset, None, sampler=keys, num_workers=2, multiprocessing_context="fork")
    got = [sample["patches"] for sample in loader]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0, 2]["patches"], expected[2])


@pytest.mark.parametrize(
    "mode", ["L", "P", "RGBA", "LA", "CMYK", "1"], ids=lambda mode: f"mode {mode}"
)
def test_other_8_bit_pictures_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(pixels(0)).convert(mode)
    save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), image)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(picture_dataset(tmp_path)[0, 0]["patches"][0], expected)


def write_raster(path: Path, image: np.ndarray, driver: str = "GTiff", **options: Any) -> None:
    """Write bands, shape (C, H, W), as GDAL does."""
    count, height, width = image.shape
    size = {"count": count, "height": height, "width": width}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver, dtype=image.dtype, **size, **options) as file:
            file.write(image)


RGB_TIFF = {"interleave": "pixel", "photometric": "RGB"}


@pytest.mark.parametrize("on_bad_patch", ["raise", "skip"])
@pytest.mark.parametrize(
    ("driver", "dtype", "count", "options"),
    [
        *(("PNG", "uint16", count, {}) for count in (1, 3)),
        *(("GTiff", dtype, 1, {}) for dtype in ("uint16", "int8", "int16", "float32", "complex64")),
        *(("GTiff", "uint8", 2, {"interleave": each}) for each in ("band", "pixel")),
        *(("GTiff", "uint16", 3, options) for options in ({}, RGB_TIFF, {"interleave": "band"})),
        ("GTiff", "float32", 3, {}),
        *(("GTiff", "uint8", 4, {"photometric": each}) for each in ("RGB", "MINISBLACK")),
        *(("GTiff", "uint8", count, {}) for count in (6, 13)),
        ("GTiff", "uint16", 13, {}),  # such as EuroSAT's
    ],
)
def test_valid_files_of_other_bands_or_types_are_named_with_what_is_accepted(
    tmp_path: Path, driver: str, dtype: str, count: int, options: Any, on_bad_patch: OnBadPatch
) -> None:
    name = "deep.png" if driver == "PNG" else "deep.tif"
    write_raster(tmp_path / name, np.full((count, 8, 9), 100, dtype), driver, **options)
    found = rf"{name} has {count} x {dtype}, 9 x 8 px, but pictures have 1 band .* convert it"
    with pytest.raises(UserError, match=found) as info:
        picture_dataset(tmp_path, on_bad_patch=on_bad_patch)
    assert not isinstance(info.value, BadPatchError)


@pytest.mark.parametrize(
    "options", [{"photometric": "MINISBLACK"}, {"compress": "LERC", **RGB_TIFF}]
)
def test_valid_files_that_pillow_does_not_read_are_not_called_damaged(
    tmp_path: Path, options: dict[str, str]
) -> None:
    write_raster(tmp_path / "x.tif", np.full((3, 8, 9), 100, np.uint8), **options)
    with pytest.raises(UserError, match=r"x.tif has 3 x uint8, 9 x 8 px, but .* convert it"):
        picture_dataset(tmp_path)
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[: len(data) - 150])
    with pytest.raises(BadPatchError, match="is not a readable picture: replace it"):
        picture_dataset(tmp_path)


@pytest.mark.parametrize("options", [{}, {"compress": "LZW"}, {"compress": "DEFLATE"}])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_planar_pictures_are_read(tmp_path: Path, interleave: str, options: dict[str, str]) -> None:
    image = pixels(0).transpose(2, 0, 1)
    write_raster(tmp_path / "x.tif", image, photometric="RGB", interleave=interleave, **options)
    np.testing.assert_array_equal(picture_dataset(tmp_path)[0, 0]["patches"][0], image)


@pytest.mark.parametrize(("count", "kept"), [(2, [0, 0, 0]), (4, [0, 1, 2])])
def test_a_band_that_is_marked_as_transparency_is_left_out_with_one_warning(
    tmp_path: Path, count: int, kept: list[int]
) -> None:
    image = np.random.default_rng(0).integers(1, 256, (count, 8, 8), dtype=np.uint8)
    for name in ("x.tif", "y.tif"):
        write_raster(tmp_path / name, image, alpha="YES")
    with pytest.warns(UserWarning, match=r"x.tif declares its last band as transparency"):
        dataset = picture_dataset(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = dataset[0, 1]["patches"][0]
    np.testing.assert_array_equal(second, image[kept])


def png_of(width: int, height: int) -> bytes:
    """A PNG of ISO/IEC 15948 whose pixels nobody has to wait for."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", crc)

    head = chunk(b"IHDR", struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["huge.png", "huge.tif"])
def test_picture_of_too_many_pixels_is_named_with_its_size(tmp_path: Path, name: str) -> None:
    if name == "huge.png":
        (tmp_path / name).write_bytes(png_of(20_000, 10_000))
    else:
        size = {"count": 3, "height": 10_000, "width": 20_000, "dtype": "uint8"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            rasterio.open(tmp_path / name, "w", "GTiff", **size, sparse_ok=True).close()
    message = rf"{name} has 3 x uint8, 20000 x 10000 px, but .* at most 67,108,864 px: convert it"
    with pytest.raises(UserError, match=message):
        picture_dataset(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["B04.TIF", "x_B04_10m.tif", "b4.png", "scene.B8A.tiff"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_single_bands_are_not_taken_for_grey_pictures(
    tmp_path: Path, name: str, dtype: str, zipped: bool
) -> None:
    (tmp_path / "p/scene").mkdir(parents=True)
    is_png = name.endswith("png")
    image = np.full((1, 8, 8), 9, "uint8" if is_png else dtype)
    write_raster(tmp_path / "p/scene" / name, image, "PNG" if is_png else "GTiff")
    root = pack(tmp_path / "p", tmp_path / "p.zip") if zipped else tmp_path / "p"
    with pytest.raises(UserError, match=rf"single bands such as scene/{name}: give "):
        Pictures(root)


def test_rgb_picture_with_the_name_of_a_band_is_a_picture(tmp_path: Path) -> None:
    save(tmp_path / "tile_B4.png", pixels(0))
    assert Pictures(tmp_path).names == ["tile_B4.png"]


def test_other_sizes_are_scaled_and_cropped_to_the_first_with_one_warning(tmp_path: Path) -> None:
    save(tmp_path / "0.png", pixels(0, 8, 8))
    red_between_blue = np.zeros((32, 64, 3), np.uint8)
    red_between_blue[:, :16, 2] = red_between_blue[:, 48:, 2] = 255
    red_between_blue[:, 16:48, 0] = 200
    save(tmp_path / "1.png", red_between_blue)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255  # sampled without a filter, this is black or white
    save(tmp_path / "2.png", stripes)
    dataset = picture_dataset(tmp_path)
    with pytest.warns(UserWarning, match=r"1.png has 64 x 32 px; .* the 8 x 8 px of 0.png"):
        cropped = dataset[0, 1]["patches"]
    assert cropped.shape == (1, 3, 8, 8)
    assert (cropped[0, 0, :, 1:-1] == 200).all()
    assert (cropped[0, 2, :, 1:-1] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grey = dataset[0, 2]["patches"].float()
    assert (grey - 127.5).abs().max() < 8


def test_zeros_and_damaged_pictures_name_their_file(folder: Path) -> None:
    jpeg = (folder / NAMES[0]).read_bytes()
    save(folder / NAMES[1], np.zeros((8, 8, 3), np.uint8))
    (folder / NAMES[2]).write_bytes(b"no picture")
    dataset = picture_dataset(folder)
    (folder / NAMES[0]).write_bytes(jpeg[: len(jpeg) - 40])
    (folder / NAMES[3]).unlink()
    reasons = ["is not a readable picture", "holds only zeros"]
    reasons += ["is not a readable picture", "is missing"]
    for index, reason in enumerate(reasons):
        with pytest.raises(BadPatchError, match=reason) as caught:
            _ = dataset[0, index]
        assert caught.value.name == str(folder / NAMES[index])
    os.mkfifo(folder / NAMES[3])
    with pytest.raises(BadPatchError, match="is not a readable picture"):
        _ = dataset[0, 3]


def test_damage_inside_a_zip_names_the_picture(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path / "p.zip")
    with zipfile.ZipFile(archive) as file:
        start = file.getinfo(NAMES[1]).header_offset + 60
    data = bytearray(archive.read_bytes())
    data[start : start + 20] = bytes(20)
    archive.write_bytes(data)
    with pytest.raises(BadPatchError, match=rf"p.zip/{NAMES[1]} is not a readable picture"):
        _ = picture_dataset(archive)[0, 1]


def test_bad_picture_is_skipped_on_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.seco.bad_patches.MAX_BAD_FRACTION", 0.5)
    (folder / NAMES[0]).write_bytes(b"no picture")
    dataset = picture_dataset(folder, on_bad_patch="skip")
    sample = dataset[1, 0]
    assert sample["bad"] == [str(folder / NAMES[0])]
    assert sample["index"] == 0
    np.testing.assert_array_equal(sample["patches"][0], pixels(10).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "lines",
    [
        ["world/b/2.PNG", "world/a/1.jpg"],
        ["b/2.PNG", "a/1.jpg", ""],
        ["2.PNG", "1.jpg"],
        ["./world/b/2.PNG", "a/1.jpg", "a/1.jpg"],
        ["b/2.PNG", "b/._2.PNG", "a/1.jpg", "./.DS_Store"],
    ],
)
def test_list_restricts_the_pictures_with_or_without_their_folders(
    either: Path, tmp_path: Path, lines: list[str]
) -> None:
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    pictures = Pictures(either, tmp_path / "list.txt")
    assert pictures.names == ["world/a/1.jpg", "world/b/2.PNG"]
    np.testing.assert_array_equal(pictures.read(1), pixels(2).transpose(2, 0, 1))


def test_exact_name_wins_over_one_in_a_subfolder(tmp_path: Path) -> None:
    for name in ("1.png", "a/1.png", "0/1.png"):
        save(tmp_path / "p" / name, pixels(0))
    (tmp_path / "list").write_text("1.png")
    assert Pictures(tmp_path / "p", tmp_path / "list").names == ["1.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a/1.jpg\nmoon/1.jpg\nmoon/2.jpg\n", r"2 of 3 names in .*list do .* moon/1.jpg \(0 pict"),
        ("\n", r"0 of 0 names in .*, such as an empty list: write a name per line"),
        ("1.jpg", r"1 of 1 names in .*list do not name one .* 1.jpg \(2 pictures\): .* folders"),
    ],
)
def test_list_that_fits_no_pictures_is_an_error(
    folder: Path, tmp_path: Path, content: str, message: str
) -> None:
    shutil.copytree(folder / "world/a", folder / "world/d")
    (tmp_path / "list").write_text(content)
    with pytest.raises(UserError, match=message):
        Pictures(folder, tmp_path / "list")


def test_wrong_roots_and_lists_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "downloaded").mkdir()
    (tmp_path / "downloaded" / "seco.zip").touch()
    for root, message in (
        ("nowhere", "nowhere is missing"),
        ("empty", r"empty holds neither pictures .*B4.tif\)$"),
        ("downloaded", "downloaded holds neither .*: did you mean .*downloaded/seco.zip"),
        ("text.zip", "is neither a folder nor a whole zip"),
    ):
        with pytest.raises(UserError, match=message):
            Pictures(tmp_path / root)
    with pytest.raises(UserError, match=r"image_list .*none is missing"):
        Pictures(folder, tmp_path / "none")


@pytest.mark.skipif(not EUROSAT.exists(), reason="needs the real EuroSAT")
def test_real_eurosat_is_read_from_its_zip() -> None:
    dataset = picture_dataset(EUROSAT)
    assert len(dataset) == 27_000
    assert dataset.source.patch_shape == (3, 64, 64)
    indices = range(0, 27_000, 90)
    images = torch.cat([dataset[0, index]["patches"] for index in indices]).double() / 255
    # Means of the whole set, from its description; 300 pictures differ by chance.
    published = torch.tensor([0.3444, 0.3803, 0.4078], dtype=torch.float64)
    assert (images.mean((0, 2, 3)) - published).abs().max() < 0.02
