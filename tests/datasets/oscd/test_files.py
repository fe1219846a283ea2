"""OSCD's folders, bands, change maps and splits, on files of the miniature Earth."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from datasets.bands import check_dn
from datasets.geotiff.plain import read_georeference
from datasets.oscd.facts import BAND_QUANTILES, OSCD_DATA, TEST_CITIES, TRAIN_CITIES
from datasets.oscd.files import City, city_splits, find_cities, read_cities
from utils.errors import UserError
from utils.input_spec import InputSpec, InputTransform, input_transform

ARCHIVE = "Onera Satellite Change Detection dataset - "
SIDE = 60


def transform(*bands: str, norm: str = "paper") -> InputTransform:
    return input_transform(InputSpec.of_pictures(bands or ("R", "G", "B")), OSCD_DATA, norm)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        band: np.ndarray = file.read(1)
    return band


def read_city(root: Path, *bands: str, aligned: bool = True) -> City:
    (city,) = read_cities(root, ["brasilia"], transform(*bands), aligned=aligned)
    return city


def overwrite(path: Path, band: np.ndarray) -> None:
    """Replace the pixels of a GeoTIFF, perhaps with others in number and type."""
    with rasterio.open(path) as file:
        profile = file.profile
    bands = band.reshape(-1, *band.shape[-2:])
    count, height, width = bands.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": band.dtype}
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """The data set, to change."""
    return Path(shutil.copytree(root, tmp_path / "oscd"))


def test_thirteen_bands_are_stretched_between_the_published_quantiles(root: Path) -> None:
    published = [BAND_QUANTILES[name] for name in ("B4", "B3", "B2")]
    assert published == [(426, 3698), (667, 2969), (885, 2620)]
    names = ("B12", "B1", "B8A", "B10", "B4")
    (city_1,) = read_cities(root, ["aguasclaras"], transform(*names))
    for date, image in ((1, city_1.image_1), (2, city_1.image_2)):
        assert image.shape == (5, SIDE, SIDE)
        assert image.dtype == np.uint8
        for name, plane in zip(("B12", "B01", "B8A", "B10", "B04"), image, strict=True):
            stored = read(root / f"aguasclaras/imgs_{date}_rect/{name}.tif").astype(float)
            low, high = BAND_QUANTILES[name.replace("B0", "B")]
            expected = np.floor(np.clip((stored - low) / (high - low), 0, 1) * 255)
            assert np.abs(plane - expected).max() <= 1  # of rounding at the edge of a step
            assert (plane == expected).mean() > 0.99
    assert len(OSCD_DATA.bands) == 13


def same(one: City, other: City) -> bool:
    images = np.array_equal(one.image_1, other.image_1) and np.array_equal(
        one.image_2, other.image_2
    )
    corners = [city.georeference[33922] for city in (one, other)]
    return images and np.array_equal(one.mask, other.mask) and corners[0] == corners[1]


def test_change_maps_in_any_colour_mode_and_as_a_geotiff_mean_the_same(copied: Path) -> None:
    path = copied / "brasilia/cm/cm.png"
    picture = Image.open(path)
    expected = np.asarray(picture) == 255
    assert 0 < expected.mean() < 0.5
    for mode in ("L", "RGB", "RGBA", "P", "1"):
        picture.convert(mode).save(path)
        assert np.array_equal(read_city(copied).mask, expected)
    path.unlink()
    assert np.array_equal(read_city(copied).mask, expected)


def test_unpacked_archives_are_read_as_a_merged_folder(root: Path, tmp_path: Path) -> None:
    parts = {name: tmp_path / f"{ARCHIVE}{name}" for name in ("Images", "Train Labels")}
    parts["Test Labels"] = tmp_path / f"{ARCHIVE}Test Labels" / f"{ARCHIVE}Test Labels"  # unzipped
    for split in ("train", "test"):
        for name in (root / f"{split}.txt").read_text().strip().split(","):
            images = Path(shutil.copytree(root / name, parts["Images"] / name))
            shutil.move(images / "cm", parts[f"{split.title()} Labels"] / name / "cm")
        shutil.copy(root / f"{split}.txt", parts["Images"])
    assert city_splits(tmp_path) == city_splits(root)
    names = sorted(find_cities(root))
    cities = [read_cities(each, names, transform()) for each in (tmp_path, root)]
    assert all(map(same, *cities))


@pytest.mark.difference("oscd-splits")
def test_every_fourth_training_city_is_for_validation(tmp_path: Path) -> None:
    for name in TRAIN_CITIES + TEST_CITIES:
        (tmp_path / name / "imgs_1_rect").mkdir(parents=True)
    splits = city_splits(tmp_path)  # no lists: the names of the data set
    assert splits["val"] == ["beirut", "hongkong", "pisa"]
    assert splits["test"] == sorted(TEST_CITIES)
    assert sorted(splits["train"] + splits["val"]) == sorted(TRAIN_CITIES)
    (tmp_path / "train.txt").write_text("rennes,\npisa , mumbai\n")
    assert city_splits(tmp_path)["train"] == ["mumbai", "pisa"]  # of fewer than four: the last
    assert city_splits(tmp_path)["val"] == ["rennes"]


def test_lists_of_another_data_set_are_ignored(copied: Path) -> None:
    expected = city_splits(copied)
    parent = copied.parent
    (parent / "train.txt").write_text("Forest_1.jpg\nRiver_2.jpg")  # EuroSAT's, a folder above
    with pytest.warns(UserWarning, match=r"train\.txt is ignored: it names none of OSCD's") as told:
        assert city_splits(parent) == expected
    assert len(told) == 1


@pytest.mark.difference("oscd-images")
def test_native_images_are_cut_or_filled_up_to_the_first_date(copied: Path) -> None:
    for path in (copied / "brasilia/imgs_2").glob("*.tif"):
        if path.stem[-3:] in ("B02", "B03", "B04"):
            overwrite(path, read(path)[: SIDE - 7, :])
    mask = Image.new("L", (SIDE + 9, SIDE - 3), 255)
    mask.save(copied / "brasilia/cm/cm.png")
    native = read_city(copied, aligned=False)
    (aligned,) = read_cities(copied, ["aguasclaras"], transform())
    (same,) = read_cities(copied, ["aguasclaras"], transform(), aligned=False)
    assert np.array_equal(aligned.image_2, same.image_2)  # the miniature Earth is aligned as it is
    assert native.image_2.shape == native.image_1.shape == (3, SIDE, SIDE)
    assert native.image_2[:, : SIDE - 7].any()
    assert not native.image_2[:, SIDE - 7 :].any()
    assert native.mask[: SIDE - 3].all()
    assert not native.mask[SIDE - 3 :].any()


def test_georeference_is_that_of_the_first_date_else_of_the_change_map(copied: Path) -> None:
    paths = [copied / "brasilia" / name for name in ("imgs_1_rect/B04.tif", "cm/brasilia-cm.tif")]
    expected = read_georeference(paths[0].read_bytes())
    assert expected
    bare = {"driver": "GTiff", "count": 1, "height": SIDE, "width": SIDE, "dtype": "uint16"}
    for path in paths:
        city = read_city(copied)
        assert city.georeference == expected
        pixels = read(path)
        with (
            pytest.warns(rasterio.errors.NotGeoreferencedWarning),
            rasterio.open(path, "w", **bare) as file,
        ):
            file.write(pixels, 1)
    assert read_city(copied).georeference == {}


def test_bands_may_be_spelled_and_stored_in_other_ways(copied: Path) -> None:
    path = copied / "brasilia/imgs_1_rect/B04.tif"
    expected = read_city(copied, "B4", "B8A", "B1")
    for name in ("B4.TIF", "b04.tiff", "S2A_MSIL1C_20150801_B4.Tif"):
        path = path.rename(path.with_name(name))
        assert same(read_city(copied, "B4", "B8A", "B1"), expected)
    overwrite(path, read(path).astype(np.float32) + np.float32(0.3))  # a resampled copy
    assert same(read_city(copied, "B4", "B8A", "B1"), expected)


@pytest.mark.difference("oscd-layout")
def test_hidden_files_are_ignored(copied: Path, root: Path) -> None:
    for folder in ("imgs_1_rect", "imgs_1"):
        for name in ("._B03.tif", ".B03.tif", "._S2A_B03.tif", ".x_B03.tif"):
            (copied / "brasilia" / folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X   ")
    for folder in ("__MACOSX/brasilia", ".Trash/rennes"):
        (copied / folder / "imgs_1_rect").mkdir(parents=True)
        (copied / folder.split("/")[0] / "train.txt").write_text("nowhere")
    for aligned in (True, False):
        assert same(read_city(copied, aligned=aligned), read_city(root, aligned=aligned))
    assert set(find_cities(copied)) == {"aguasclaras", "bercy", "brasilia", "montpellier"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, np.nan, 0], "no value above 0: replace it"),
        (
            [0.01, np.nan, 0.4],
            r"from 0\.01 to 0\.4, as reflectance has, .*: multiply them by 10,000",
        ),
        ([0, 200], "from 0 to 200, as 8-bit pictures have, .*: take the original"),
        ([-5, 3], "from -5 to 3, as normalised data have"),
        ([0, 3e4, 4e4], "from 0 to 40000, as 16-bit pictures have"),
        ([500, 1e7], r"from 500 to 1e\+07, beyond 16 bits"),
        ([-9999, 3000], "from -9999 to 3000, as in signed 16-bit files, .*: store them as uint16"),
    ],
)
def test_values_in_another_unit_are_refused_with_the_values_seen(
    values: list[float], message: str
) -> None:
    check_dn([np.array([0, 256.0])], "B03.tif")
    with pytest.raises(UserError, match=rf"B03\.tif holds .*{message}"):
        check_dn([np.array(values)], "B03.tif")


def test_the_cirrus_band_is_dark_in_digital_numbers(copied: Path) -> None:
    path = copied / "brasilia/imgs_1_rect/B10.tif"
    dn = np.linspace(*BAND_QUANTILES["B10"], SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    overwrite(path, dn)
    read_city(copied, "B10", "B4", "B3")
    overwrite(path, (dn / 10_000).astype(np.float32))
    with pytest.raises(UserError, match=r"B10\.tif holds values .* as reflectance has"):
        read_city(copied, "B10", "B4", "B3")


def replaced(
    change: Callable[[np.ndarray], np.ndarray], name: str = "imgs_1_rect/B03.tif"
) -> Callable[[Path], object]:
    """Return what changes the pixels of a band of brasilia."""
    return lambda root: overwrite(root / "brasilia" / name, change(read(root / "brasilia" / name)))


def other_size(root: Path) -> None:
    for name in ("B02", "B03", "B04"):
        replaced(lambda dn: dn[:-1], f"imgs_2_rect/{name}.tif")(root)


def with_mask(size: tuple[int, int], value: int = 0) -> Callable[[Path], object]:
    return lambda root: Image.new("L", size, value).save(root / "brasilia/cm/cm.png")


def other_values(root: Path) -> None:
    (root / "brasilia/cm/cm.png").unlink()
    replaced(lambda band: band + np.uint8(7), "cm/brasilia-cm.tif")(root)


def with_text(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def as_pipe(name: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        (root / name).unlink()
        os.mkfifo(root / name)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_size, "brasilia: imgs_2_rect has 60 x 59 px .*, but imgs_1_rect 60 x 60 px: use"),
        (with_mask((SIDE, SIDE + 2)), "brasilia: .*the change map 60 x 62 px, but imgs_1_rect 60"),
        (with_mask((SIDE, SIDE), 1), r"cm\.png has values up to 1, but a change map has 0 and 255"),
        (
            replaced(lambda dn: dn[:, 1:]),
            "has B4 in 60 x 60 px, but B3 in 59 x 60 px: take bands of one resolution",
        ),
        (replaced(lambda dn: (dn // 256).astype(np.uint8)), r"B03\.tif holds uint8 values"),
        (replaced(lambda dn: dn.astype(np.complex64)), r"B03\.tif holds complex64 values"),
        (replaced(lambda dn: np.stack([dn] * 3)), r"B03\.tif has 3 bands of uint16, but a file"),
        (
            replaced(lambda dn: (dn * 1e-4).astype("f4")),
            r"B03\.tif holds values from 0\.\d+ to 0\.\d+, as reflectance has, but dig",
        ),
        (
            replaced(lambda dn: dn // 50),
            r"B03\.tif holds values .* as 8-bit pictures have, .*: take",
        ),
        (other_values, r"brasilia-cm\.tif has values up to 9, but a change map has .* 1 and 2"),
        (lambda root: shutil.rmtree(root / "brasilia/cm"), "change map of brasilia is missing"),
        (with_text("brasilia/cm/cm.png", "no"), "not a readable picture"),
        (lambda root: (root / "brasilia/imgs_1_rect/B02.tif").unlink(), r"has no B02\.tif"),
        (with_text("brasilia/imgs_1_rect/B02.tif", "no"), r"B02\.tif is not a readable GeoTIFF"),
        (as_pipe("brasilia/imgs_1_rect/B02.tif"), r"B02\.tif is not a readable GeoTIFF"),
        (as_pipe("brasilia/cm/cm.png"), "not a readable picture"),
        (lambda root: shutil.rmtree(root / "montpellier"), "1 of OSCD's cities have no images"),
        (with_text("test.txt", "brasilia,bercy"), r"bercy is in train\.txt and in test"),
        (with_text("train.txt", "bercy"), "name 1 and 2 cities, but at least two to train"),
        (with_text("test.txt", "\n"), "name 2 and 0 cities"),
        (lambda root: (root / "train.txt").unlink(), r"12 of OSCD's cities have no images .*: abu"),
        (lambda root: shutil.rmtree(root), "holds no OSCD city, a folder with imgs_1_rect"),
    ],
)
def test_bad_input_is_one_sentence_that_names_it(
    copied: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        read_cities(copied, city_splits(copied)["test"], transform())
    assert "\n" not in str(caught.value)


def test_native_bands_of_several_resolutions_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"B4 in 60 x 60 px, but B11 in 30 x 30 px: .*imgs_\*_rect"):
        read_cities(root, ["brasilia"], transform("B4", "B11"), aligned=False)
