"""Which scene of a window is tried first, and when a place has none."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest

from datasets.collect.collector import has_gaps
from datasets.collect.scenes import Array, Candidates, Lack, PatchGrid, Place, Scene, Window, choose
from datasets.collect.settings import Settings

MARCH = Window(date(2021, 3, 1), date(2021, 3, 16))
JANUARY = Window(date(2021, 1, 1), date(2021, 1, 16))
PLACE = Place(7, 50.0, 8.0, PatchGrid(32632, 399960, 5500020, 12), (MARCH, JANUARY))
SETTINGS = Settings(clear_fraction=0.9)


def scene(
    month: int, day: int, clear: float | None = 1.0, cloud: float = 5.0, valid: float = 1.0
) -> Scene:
    start = datetime(2021, month, day, 10, 30, tzinfo=UTC)
    name = f"{start:%Y%m%dT%H%M%S}_{start:%Y%m%dT%H%M%S}_T32UMA"
    return Scene(name, start, cloud, clear, valid, "02.13")


def days(found: Candidates | Lack) -> list[list[int]]:
    assert not isinstance(found, Lack)
    return [[scene.start.day for scene in window] for window in found]


SCENES = [scene(3, 1, 0.95), scene(3, 9, 0.92), scene(3, 15, 0.99), scene(1, 5), scene(2, 5)]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("least_cloudy", [15, 1, 9]), ("nearest", [9, 15, 1]), ("newest", [15, 9, 1])],
)
@pytest.mark.difference("collect-scene")
def test_scenes_of_a_window_are_ranked(choice: str, expected: list[int]) -> None:
    found = choose(PLACE, SCENES, replace(SETTINGS, scene_choice=choice))

    assert days(found) == [expected, [5]]


def test_windows_end_before_their_last_day() -> None:
    found = choose(PLACE, [scene(3, 16), scene(1, 1)], SETTINGS)

    assert isinstance(found, Lack)
    assert found.outcome == "no_scene"
    assert "2021-03-01" in found.reason


def test_cloudy_or_incomplete_patches_are_no_choice() -> None:
    lists = [[scene(3, 2, clear=0.89)], [scene(3, 2, valid=0.99)]]
    found = [choose(PLACE, [*some, scene(1, 5)], SETTINGS) for some in lists]

    assert [lack.outcome for lack in found if isinstance(lack, Lack)] == ["cloudy", "cloudy"]


def test_where_nobody_knows_the_scene_decides() -> None:
    """A gap in the cloud scores is neither an error nor cloudy."""
    found = choose(PLACE, [scene(3, 2, None, 9), scene(3, 3, None, 1), scene(1, 5)], SETTINGS)

    assert days(found) == [[3, 2], [5]]


SIDES = {"B2": 12, "B3": 12, "B8A": 6, "B11": 6, "B1": 2}


def with_zeros(*bands: str, dark: str = "") -> dict[str, Array]:
    """Return a bright picture of which one pixel is 0 in some bands, and dark in another one."""
    images = {band: np.full((side, side), 2000, np.uint16) for band, side in SIDES.items()}
    for band in (*bands, dark):
        if band:
            images[band][SIDES[band] // 2, 0] = 0 if band != dark else 499
    return images


@pytest.mark.parametrize("is_clamped", [False, True])
@pytest.mark.parametrize("band", SIDES)
@pytest.mark.difference("collect-gaps")
def test_a_pixel_without_data_in_one_band_is_a_gap(band: str, is_clamped: bool) -> None:
    assert not has_gaps(with_zeros(), is_clamped)
    assert has_gaps(with_zeros(band), is_clamped)


@pytest.mark.parametrize("band", ["B2", "B11", "B1"])
def test_where_another_subtracted_the_offset_a_dark_pixel_may_be_0(band: str) -> None:
    """A reflectance below 0 is 0 there; before, a pixel with data was 1 at least."""
    images = with_zeros(band, dark="B3")
    if band == "B1":
        images["B9"] = np.full((2, 2), 2000, np.uint16)
    assert not has_gaps(images, is_clamped=True)
    assert has_gaps(images, is_clamped=False)


def test_a_pixel_that_is_0_in_all_bands_of_a_resolution_is_a_gap_however_dark() -> None:
    assert has_gaps(with_zeros("B8A", "B11", dark="B3"), is_clamped=True)
    assert has_gaps(with_zeros(*SIDES), is_clamped=True)
