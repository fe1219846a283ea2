"""Pictures and GeoTIFFs of change maps."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from datasets.oscd.change_maps import COLORS, paint_outcome, plot_change_map, write_band


def test_pictures_color_right_false_and_missed_changes(tmp_path: Path) -> None:
    mask = np.array([[True, True], [False, False]])
    found = np.array([[True, False], [True, False]])
    colors = [tuple(color) for color in paint_outcome(mask, found).reshape(4, 3).tolist()]
    assert colors == [COLORS["found"], COLORS["missed"], COLORS["false alarm"], (0, 0, 0)]
    green = np.zeros((3, 2, 2), np.uint8)
    green[1] = 200
    plot_change_map(tmp_path / "a.png", (green, green), mask, found, "a city")
    drawn = {
        tuple(color)
        for color in np.asarray(Image.open(tmp_path / "a.png"))[..., :3].reshape(-1, 3).tolist()
    }
    assert {*COLORS.values(), (0, 200, 0)} <= drawn
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_maps_of_images_without_coordinates_are_written_without(tmp_path: Path) -> None:
    write_band(tmp_path / "a.tif", np.ones((3, 4), np.uint8), None, None)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        file = rasterio.open(tmp_path / "a.tif")
    with file:
        assert file.crs is None
        assert file.read(1).tolist() == [[1] * 4] * 3
