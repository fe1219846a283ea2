"""OSCD's folders, bands, change maps, splits and tiles, on files of the miniature Earth."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets import mini_earth
from datasets.oscd.cities import TEST_CITIES, TRAIN_CITIES
from datasets.oscd.files import City, find_cities
from datasets.oscd_dataset import (
    OSCD_DATA,
    QUANTILES,
    ChangeDetectionDataset,
    Sample,
    WholeCities,
    city_splits,
    read_cities,
    unchanged_per_changed,
)
from utils.data import SeededSampler
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


def overwrite(path: Path, band: np.ndarray) -> None:
    """Replace the pixels of a GeoTIFF, perhaps with others in number and type."""
    with rasterio.open(path) as file:
        profile = file.profile
    profile |= {"height": band.shape[0], "width": band.shape[1], "dtype": band.dtype}
    with rasterio.open(path, "w", **profile) as file:
        file.write(band, 1)


def city(height: int, width: int, name: str = "rio", bands: int = 3) -> City:
    rng = np.random.default_rng(height)
    images = rng.integers(1, 256, (2, bands, height, width), dtype=np.uint8)
    mask = rng.random((height, width)) < 0.2
    return City(name, images[0], images[1], mask, crs=None, transform=None)


def samples(dataset: ChangeDetectionDataset | WholeCities) -> list[Sample]:
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training cities and two test cities in one folder, 60 px. Read only."""
    root = tmp_path_factory.mktemp("mini_earth") / "oscd"
    mini_earth.write_oscd(root, num_cities=4, size=SIDE, num_workers=1)
    return root


@pytest.fixture
def copied(merged: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return Path(shutil.copytree(merged, tmp_path / "oscd"))


def test_thirteen_bands_are_stretched_between_the_published_quantiles(merged: Path) -> None:
    published = [QUANTILES[name] for name in ("B4", "B3", "B2")]
    assert published == [(426, 3698), (667, 2969), (885, 2620)]
    names = ("B12", "B1", "B8A", "B10", "B4")
    (city_1,) = read_cities(merged, ["aguasclaras"], transform(*names))
    for date, image in ((1, city_1.image_1), (2, city_1.image_2)):
        assert image.shape == (5, SIDE, SIDE)
        assert image.dtype == np.uint8
        for name, plane in zip(("B12", "B01", "B8A", "B10", "B04"), image, strict=True):
            stored = read(merged / f"aguasclaras/imgs_{date}_rect/{name}.tif").astype(float)
            low, high = QUANTILES[name.replace("B0", "B")]
            expected = np.floor(np.clip((stored - low) / (high - low), 0, 1) * 255)
            assert np.abs(plane - expected).max() <= 1  # of rounding at the edge of a step
            assert (plane == expected).mean() > 0.99
    assert len(OSCD_DATA.bands) == 13


def test_both_change_maps_mean_the_same(copied: Path) -> None:
    (before,) = read_cities(copied, ["brasilia"], transform())
    assert np.array_equal(before.mask, np.asarray(Image.open(copied / "brasilia/cm/cm.png")) == 255)
    assert 0 < before.mask.mean() < 0.5
    (copied / "brasilia/cm/cm.png").unlink()
    (after,) = read_cities(copied, ["brasilia"], transform())
    assert np.array_equal(after.mask, before.mask)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1"])
def test_change_maps_may_be_in_colour_with_alpha_or_a_palette(copied: Path, mode: str) -> None:
    path = copied / "brasilia/cm/cm.png"
    expected = np.asarray(Image.open(path)) == 255
    Image.open(path).convert(mode).save(path)
    assert np.array_equal(read_cities(copied, ["brasilia"], transform())[0].mask, expected)


def test_unpacked_archives_are_read_as_a_merged_folder(merged: Path, tmp_path: Path) -> None:
    parts = {name: tmp_path / f"{ARCHIVE}{name}" for name in ("Images", "Train Labels")}
    parts["Test Labels"] = tmp_path / f"{ARCHIVE}Test Labels" / f"{ARCHIVE}Test Labels"  # unzipped
    for split in ("train", "test"):
        for name in (merged / f"{split}.txt").read_text().strip().split(","):
            images = parts["Images"] / name
            shutil.copytree(merged / name, images)
            shutil.move(images / "cm", parts[f"{split.title()} Labels"] / name / "cm")
        shutil.copy(merged / f"{split}.txt", parts["Images"])
    assert city_splits(tmp_path) == city_splits(merged)
    names = sorted(find_cities(merged))
    pairs = zip(
        read_cities(tmp_path, names, transform()),
        read_cities(merged, names, transform()),
        strict=True,
    )
    for one, other in pairs:
        assert np.array_equal(one.image_1, other.image_1)
        assert np.array_equal(one.image_2, other.image_2)
        assert np.array_equal(one.mask, other.mask)
        assert one.transform == other.transform


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
    (native,) = read_cities(copied, ["brasilia"], transform(), aligned=False)
    (aligned,) = read_cities(copied, ["aguasclaras"], transform())
    (same,) = read_cities(copied, ["aguasclaras"], transform(), aligned=False)
    assert np.array_equal(aligned.image_2, same.image_2)  # the miniature Earth is aligned as it is
    assert native.image_2.shape == native.image_1.shape == (3, SIDE, SIDE)
    assert native.image_2[:, : SIDE - 7].any()
    assert not native.image_2[:, SIDE - 7 :].any()
    assert native.mask[: SIDE - 3].all()
    assert not native.mask[SIDE - 3 :].any()


def test_georeference_is_that_of_the_first_date_else_of_the_change_map(copied: Path) -> None:
    path = copied / "rio/imgs_1_rect/B04.tif"
    shutil.copytree(copied / "brasilia", copied / "rio")
    (copied / "rio/cm/brasilia-cm.tif").rename(copied / "rio/cm/rio-cm.tif")
    with rasterio.open(path) as file:
        crs, georeference = file.crs, file.transform
    (first,) = read_cities(copied, ["rio"], transform())
    assert first.crs == crs
    assert first.transform == georeference
    bare = read(path)
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(
            *(path, "w"), driver="GTiff", count=1, height=SIDE, width=SIDE, dtype="uint16"
        ) as file,
    ):
        file.write(bare, 1)
    (second,) = read_cities(copied, ["rio"], transform())
    assert (second.crs, second.transform) == (crs, georeference)
    (copied / "rio/cm/rio-cm.tif").unlink()
    (third,) = read_cities(copied, ["rio"], transform())
    assert (third.crs, third.transform) == (None, None)


def test_resampled_digital_numbers_of_another_type_are_rounded(copied: Path) -> None:
    path = copied / "brasilia/imgs_1_rect/B03.tif"
    expected = read_cities(copied, ["brasilia"], transform())[0].image_1
    overwrite(path, read(path).astype(np.float32) + np.float32(0.3))
    assert np.array_equal(read_cities(copied, ["brasilia"], transform())[0].image_1, expected)


@pytest.mark.parametrize("name", ["._B03.tif", ".B03.tif", "._S2A_B03.tif", ".x_B03.tif"])
@pytest.mark.difference("oscd-layout")
def test_hidden_files_beside_the_bands_are_ignored(copied: Path, name: str) -> None:
    for folder in ("imgs_1_rect", "imgs_1"):
        (copied / "brasilia" / folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    for folder in ("__MACOSX/brasilia", ".Trash/rennes"):
        (copied / folder / "imgs_1_rect").mkdir(parents=True)
        (copied / folder.split("/")[0] / "train.txt").write_text("nowhere")
    expected = shutil.copytree(copied / "brasilia", copied.parent / "clean" / "brasilia")
    for aligned in (True, False):
        (expected / ("imgs_1_rect" if aligned else "imgs_1") / name).unlink()
        one, other = (
            read_cities(root, ["brasilia"], transform(), aligned=aligned)[0]
            for root in (copied, copied.parent / "clean")
        )
        assert np.array_equal(one.image_1, other.image_1)
    assert set(find_cities(copied)) == {"aguasclaras", "bercy", "brasilia", "montpellier"}


def test_the_cirrus_band_is_dark_in_digital_numbers(copied: Path) -> None:
    path = copied / "brasilia/imgs_1_rect/B10.tif"
    dn = np.linspace(*QUANTILES["B10"], SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    overwrite(path, dn)
    read_cities(copied, ["brasilia"], transform("B10", "B4", "B3"))
    overwrite(path, (dn / 10_000).astype(np.float32))
    with pytest.raises(UserError, match=r"B10\.tif holds values .* as reflectance has"):
        read_cities(copied, ["brasilia"], transform("B10", "B4", "B3"))


def test_tiles_put_together_are_the_city_and_the_filling_does_not_count() -> None:
    cities = [city(50, 70), city(32, 33)]
    dataset = ChangeDetectionDataset(cities, 32)
    assert len(dataset) == 2 * 3 + 1 * 2
    for number, whole in enumerate(cities):
        height, width = whole.mask.shape
        image_1, image_2 = (np.zeros((3, 64, 96), np.uint8) for _ in range(2))
        mask, valid = np.zeros((64, 96), bool), np.zeros((64, 96), bool)
        for (city_number, row, column), sample in zip(dataset.tiles, samples(dataset), strict=True):
            if city_number == number:
                tile = (..., slice(row, row + 32), slice(column, column + 32))
                for canvas, part in zip((image_1, image_2, mask, valid), sample, strict=True):
                    canvas[tile] = part.numpy()
        assert np.array_equal(image_1[:, :height, :width], whole.image_1)
        assert np.array_equal(image_2[:, :height, :width], whole.image_2)
        assert np.array_equal(mask[:height, :width], whole.mask)
        assert valid[:height, :width].all()
        assert valid.sum() == height * width
        assert not image_1[:, ~valid].any()


@pytest.mark.difference("oscd-padding")
def test_original_scores_the_filling_as_unchanged() -> None:
    dataset = ChangeDetectionDataset([city(50, 70)], 32, score_padding=True)
    for _, _, mask, valid in samples(dataset):
        assert valid.all()
        assert mask.shape == (32, 32)


def test_augmentation_moves_all_planes_alike_and_reaches_all_eight_positions() -> None:
    plain = ChangeDetectionDataset([city(32, 32, bands=4)], 32)[0]
    dataset = ChangeDetectionDataset([city(32, 32, bands=4)], 32, seed=1)
    positions = {
        (flip, turns): [
            torch.rot90(part.flip(-1) if flip else part, turns, (-2, -1)) for part in plain
        ]
        for flip in (False, True)
        for turns in range(4)
    }
    seen = []
    for epoch in range(60):
        sample = dataset[epoch, 0]
        matches = [
            position
            for position, expected in positions.items()
            if all(torch.equal(*pair) for pair in zip(sample, expected, strict=True))
        ]
        assert len(matches) == 1
        seen += matches
    assert set(seen) == set(positions)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_do_not_change_order_or_augmentation(num_workers: int) -> None:
    def epoch_1(dataset: ChangeDetectionDataset, workers: int) -> list[torch.Tensor]:
        sampler = SeededSampler(len(dataset), 7, epoch=lambda: 1)
        loader = DataLoader(dataset, 4, sampler=sampler, num_workers=workers)
        return [tensor for batch in loader for tensor in batch]

    dataset = ChangeDetectionDataset([city(64, 96)], 32, seed=7)
    expected = epoch_1(dataset, 0)
    for one, other in zip(epoch_1(dataset, num_workers), expected, strict=True):
        assert torch.equal(one, other)


def test_whole_cities_keep_their_sizes_and_every_pixel() -> None:
    cities = [city(50, 70), city(32, 33)]
    pairs = zip(cities, samples(WholeCities(cities)), strict=True)
    for whole, (image_1, image_2, mask, valid) in pairs:
        assert np.array_equal(image_1.numpy(), whole.image_1)
        assert np.array_equal(image_2.numpy(), whole.image_2)
        assert np.array_equal(mask.numpy(), whole.mask)
        assert valid.all()


def test_pixels_and_tiles_with_change_are_counted() -> None:
    still, busy = city(32, 64), city(32, 32)
    still.mask[:] = False
    still.mask[5, 40] = True
    busy.mask[:] = True
    assert unchanged_per_changed([still, busy]) == (32 * 64 - 1) / (32 * 32 + 1)
    assert ChangeDetectionDataset([still, busy], 32).has_change().tolist() == [False, True, True]
    still.mask[:] = False
    with pytest.raises(UserError, match="no pixel changed in rio"):
        unchanged_per_changed([still])


def _other_size(root: Path) -> None:
    path = root / "brasilia/imgs_2_rect/B04.tif"
    for name in ("B02", "B03", "B04"):
        overwrite(path.with_stem(name), read(path)[: SIDE - 1])


def _other_mask(root: Path) -> None:
    Image.new("L", (SIDE, SIDE + 2)).save(root / "brasilia/cm/cm.png")


def _grey_mask(root: Path) -> None:
    Image.new("L", (SIDE, SIDE), 1).save(root / "brasilia/cm/cm.png")


def _other_band(root: Path) -> None:
    path = root / "brasilia/imgs_1_rect/B03.tif"
    overwrite(path, read(path)[:, 1:])


def _eight_bits(root: Path) -> None:
    path = root / "brasilia/imgs_1_rect/B03.tif"
    overwrite(path, (read(path) // 256).astype(np.uint8))


def _other_values(root: Path) -> None:
    (root / "brasilia/cm/cm.png").unlink()
    path = root / "brasilia/cm/brasilia-cm.tif"
    overwrite(path, read(path) + np.uint8(7))


def _scaled(factor: float, dtype: str = "float32", offset: float = 0) -> Callable[[Path], None]:
    """Return what stores a band in another unit than DN."""

    def damage(root: Path) -> None:
        path = root / "brasilia/imgs_1_rect/B03.tif"
        overwrite(path, (read(path) * factor + offset).astype(dtype))

    return damage


def _sixteen_bit_picture(root: Path) -> None:
    path = root / "brasilia/imgs_1_rect/B03.tif"
    dn = read(path).astype(float)
    overwrite(
        path, ((dn - dn.min()) / (np.median(dn) - dn.min()) * 3e4).clip(0, 65_535).astype("u2")
    )


def _complex(root: Path) -> None:
    path = root / "brasilia/imgs_1_rect/B03.tif"
    overwrite(path, read(path).astype(np.complex64))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_other_size, "brasilia: imgs_2_rect has 60 x 59 px, but imgs_1_rect 60 x 60"),
        (_other_mask, r"brasilia: .*cm\.png has 60 x 62 px, but imgs_1_rect 60 x 60"),
        (_grey_mask, r"cm\.png has values up to 1, but a change map has 0 and 255"),
        (_other_band, "has B4 in 60 x 60 px, but B3 in 59 x 60: take bands of one resolution"),
        (_eight_bits, r"B03\.tif holds 8-bit values"),
        (
            _scaled(1e-4),
            r"B03\.tif holds values from 0\.\d+ to 0\.\d+, as reflectance has, but dig",
        ),
        (_scaled(1e-4, "uint16"), r"B03\.tif holds no value above 0: replace it"),
        (_scaled(0.02), r"B03\.tif holds values .* as 8-bit pictures have, .*: take the original"),
        (_scaled(0.02, "uint16"), r"B03\.tif holds values .* as 8-bit pictures have"),
        (_scaled(5e-3, offset=-5), r"B03\.tif holds values from -.* as normalised data have"),
        (_scaled(1e4), r"B03\.tif holds values .* beyond 16 bits, but digital numbers"),
        (_sixteen_bit_picture, r"B03\.tif holds values from 0 .* as 16-bit pictures have"),
        (_other_values, r"brasilia-cm\.tif has other values than 1 and 2"),
        (_complex, r"B03\.tif holds complex values"),
        (lambda root: shutil.rmtree(root / "brasilia/cm"), "change map of brasilia is missing"),
        (lambda root: (root / "brasilia/cm/cm.png").write_text("no"), "not a readable picture"),
        (lambda root: (root / "brasilia/imgs_1_rect/B02.tif").unlink(), r"has no B02\.tif"),
        (
            lambda root: (root / "brasilia/imgs_1_rect/B02.tif").write_text("no"),
            r"B02\.tif is not a readable GeoTIFF",
        ),
        (lambda root: shutil.rmtree(root / "montpellier"), "1 of OSCD's cities have no images"),
        (
            lambda root: (root / "test.txt").write_text("brasilia,aguasclaras"),
            r"aguasclaras is in train\.txt and in test\.txt",
        ),
        (
            lambda root: (root / "train.txt").write_text("aguasclaras"),
            "name 1 and 2 cities: two to train",
        ),
        (lambda root: (root / "test.txt").write_text("\n"), "name 2 and 0 cities"),
        (
            lambda root: (root / "train.txt").write_text("Forest_1.jpg\nRiver_2.jpg"),
            "12 of OSCD's cities have no images .*: abu",
        ),
        (lambda root: (root / "train.txt").unlink(), r"12 of OSCD's cities have no images .*: abu"),
    ],
)
def test_bad_input_is_one_sentence_that_names_it(
    copied: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        read_cities(copied, city_splits(copied)["test"], transform())
    assert "\n" not in str(caught.value)


def test_folders_without_cities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no OSCD city"):
        city_splits(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        city_splits(tmp_path / "nowhere")


def test_native_bands_of_several_resolutions_are_refused(merged: Path) -> None:
    with pytest.raises(UserError, match=r"B4 in 60 x 60 px, but B11 in 30 x 30: .*imgs_\*_rect"):
        read_cities(merged, ["brasilia"], transform("B4", "B11"), aligned=False)
