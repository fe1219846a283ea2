"""Which scene of a window is tried first, and when a place has none."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest

from datasets.collect_choice import Candidates, Lack, choose
from datasets.collect_place import has_gaps
from datasets.collect_scenes import PatchGrid, Place, Scene, Window
from datasets.collect_settings import Settings

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
    assert isinstance(found, Candidates)
    return [[scene.start.day for scene in window] for window in found.windows]


SCENES = [scene(3, 1, 0.95), scene(3, 9, 0.92), scene(3, 15, 0.99), scene(1, 5), scene(2, 5)]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("least_cloudy", [15, 1, 9]), ("nearest", [9, 15, 1]), ("newest", [15, 9, 1])],
)
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


def test_pixels_without_data_are_gaps_and_dark_ones_are_not() -> None:
    images = {"B2": np.ones((4, 4), int), "B3": np.ones((4, 4), int), "B1": np.ones((1, 1), int)}
    assert not has_gaps(images)

    images["B2"][1, 1] = 0
    assert not has_gaps(images)
    images["B3"][1, 1] = 0
    assert has_gaps(images)
