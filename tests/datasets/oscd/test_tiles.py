"""Tiles and whole cities as samples, and predicted change maps as files."""

import resource
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.oscd.files import City
from datasets.oscd.maps import COLORS, write_maps
from datasets.oscd.tiles import CityTiles, WholeCities, unchanged_per_changed
from utils.data import SeededSampler
from utils.errors import UserError


def city(height: int, width: int, bands: int = 3) -> City:
    rng = np.random.default_rng(height)
    images = rng.integers(1, 256, (2, bands, height, width), dtype=np.uint8)
    mask = rng.random((height, width)) < 0.2
    return City("rio", images[0], images[1], mask, georeference={})


def test_tiles_put_together_are_the_city_and_padding_does_not_count() -> None:
    cities = [city(50, 70), city(32, 33)]
    dataset = CityTiles(cities, 32)
    assert len(dataset) == 2 * 3 + 1 * 2
    for number, whole in enumerate(cities):
        height, width = whole.mask.shape
        image_1, image_2 = (np.zeros((3, 64, 96), np.uint8) for _ in range(2))
        mask, valid = np.zeros((64, 96), bool), np.zeros((64, 96), bool)
        for index, (city_number, row, column) in enumerate(dataset.tiles):
            if city_number == number:
                tile = (..., slice(row, row + 32), slice(column, column + 32))
                canvases = (image_1, image_2, mask, valid)
                for canvas, part in zip(canvases, dataset[index], strict=True):
                    canvas[tile] = part.numpy()
        assert np.array_equal(image_1[:, :height, :width], whole.image_1)
        assert np.array_equal(image_2[:, :height, :width], whole.image_2)
        assert np.array_equal(mask[:height, :width], whole.mask)
        assert valid[:height, :width].all()
        assert valid.sum() == height * width
        assert not image_1[:, ~valid].any()


@pytest.mark.difference("oscd-padding")
def test_original_scores_padding_as_unchanged() -> None:
    plain, scored = (CityTiles([city(50, 70)], 32, score_padding=flag) for flag in (False, True))
    for index in range(len(plain)):
        *parts, valid = scored[index]
        assert valid.all()
        assert all(map(torch.equal, parts, plain[index][:3]))


def test_augmentation_moves_all_planes_alike_and_reaches_all_eight_positions() -> None:
    plain = CityTiles([city(32, 32, bands=4)], 32)[0]
    dataset = CityTiles([city(32, 32, bands=4)], 32, seed=1)
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
            if all(map(torch.equal, sample, expected))
        ]
        assert len(matches) == 1
        seen += matches
    assert set(seen) == set(positions)


def test_workers_do_not_change_order_or_augmentation() -> None:
    dataset = CityTiles([city(64, 96)], 32, seed=7)

    def epoch_1(num_workers: int) -> list[torch.Tensor]:
        sampler = SeededSampler(len(dataset), 7, epoch=lambda: 1)
        loader = DataLoader(dataset, 4, sampler=sampler, num_workers=num_workers)
        return [tensor for batch in loader for tensor in batch]

    assert all(map(torch.equal, epoch_1(2), epoch_1(0)))


def test_whole_cities_keep_their_sizes_and_every_pixel() -> None:
    cities = [city(50, 70), city(32, 33)]
    dataset = WholeCities(cities)
    for index, whole in enumerate(cities):
        image_1, image_2, mask, valid = dataset[index]
        assert np.array_equal(image_1.numpy(), whole.image_1)
        assert np.array_equal(image_2.numpy(), whole.image_2)
        assert np.array_equal(mask.numpy(), whole.mask)
        assert valid.all()


def test_a_share_has_tiles_with_and_without_change_alike() -> None:
    still, busy = city(64, 64), city(64, 64)
    still.mask[:] = False
    still.mask[5, 40] = True  # in one of its four tiles
    busy.mask[:] = True
    dataset = CityTiles([still, busy], 32)
    dataset.keep_share(0.5, 0)
    changed = [bool(dataset[index][2].any()) for index in range(len(dataset))]
    assert sorted(changed) == [False, False, True, True]  # of three and five
    whole = CityTiles([still, busy], 32)
    whole.keep_share(1, 0)
    assert len(whole) == 8


def test_unchanged_pixels_are_counted_for_each_changed_one() -> None:
    still, busy = city(32, 64), city(32, 32)
    still.mask[:] = False
    still.mask[5, 40] = True
    busy.mask[:] = True
    assert unchanged_per_changed([still, busy]) == (32 * 64 - 1) / (32 * 32 + 1)
    still.mask[:] = False
    with pytest.raises(UserError, match="no pixel changed in rio"):
        unchanged_per_changed([still])


def test_maps_show_both_dates_the_changes_and_what_was_found(tmp_path: Path) -> None:
    dates = np.zeros((2, 3, 2, 2), np.uint8)
    dates[0, 1], dates[1, 2] = 200, 100  # B4, B3, B2 of a green and a blue date
    mask = np.array([[True, True], [False, False]])
    green, blue = np.flip(dates, 1)
    place = City("rio", green, blue, mask, georeference={})
    probability = torch.tensor([[0.7, 0.2], [0.6, 0.1]])
    write_maps(tmp_path, [place], [probability], 0.6, ["B2", "B3", "B4"])
    drawn = np.asarray(Image.open(tmp_path / "rio.png"))[..., :3]
    colors = {tuple(color) for color in np.unique(drawn.reshape(-1, 3), axis=0).tolist()}
    assert {*COLORS.values(), (0, 200, 0), (0, 0, 100)} <= colors
    for name, expected in (("change", [[2, 1], [2, 1]]), ("probability", probability.tolist())):
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
            file = rasterio.open(tmp_path / f"rio_{name}.tif")
        with file:
            assert file.crs is None
            np.testing.assert_allclose(file.read(1), expected)
    assert len(list(tmp_path.iterdir())) == 3


def test_no_map_is_cut_by_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.oscd.maps._plot", lambda *arguments: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"rio_probability\.tif: File too large: raise"):
            write_maps(tmp_path, [city(50, 70)], [torch.rand(50, 70)], 0.6, ["B2", "B3", "B4"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
