"""What a thread does for one place: which scenes it takes, and which it passes over."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets.collect_choice import Lack, choose
from datasets.collect_journal import Record
from datasets.collect_place import Collector
from datasets.collect_plan import Plan, open_plan
from datasets.collect_scenes import Array, PatchGrid, Place, Refused, Scene
from datasets.collect_settings import Settings
from datasets.collect_writer import place_writer
from tests.earth_engine_catalogue import Catalogue
from tests.fake_source import FakeSource
from utils.rate_limit import RateLimit, Requester

SETTINGS = Settings(
    num_locations=6,
    patch_px=12,
    num_dates=2,
    land_mask=False,
    bands=("B2", "B3", "B4"),
    reference_date="2022-03-01",
)


def collector_in(save_path: Path, plan: Plan, source: FakeSource) -> Collector:
    writer = place_writer(save_path, plan.settings, source.describe(), (0, 1))
    return Collector(plan, source, Requester(RateLimit(1, 1e6)), writer)


def collected(collector: Collector, number: int) -> Record:
    [(place, found)] = collector.search([number])
    assert not isinstance(found, Lack)
    return collector.collect(place, found)


class Gaps(FakeSource):
    """A source whose scenes of some names have a pixel without data."""

    broken: frozenset[str] = frozenset()

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        images = super().read(scene, grid)
        if scene.name in self.broken:
            for image in images.values():
                image[3, 5] = 0
        return images


def test_a_scene_with_gaps_is_replaced_by_the_next_of_its_window(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, SETTINGS, set())
    source = Gaps(SETTINGS, Catalogue(cloudiness=0.0))
    place = plan.place(0)
    found = choose(place, source.search([place])[0], SETTINGS)
    assert not isinstance(found, Lack)
    newest, oldest = found.windows
    source.broken = frozenset({newest[0].name})

    record = collected(collector_in(tmp_path, plan, source), 0)

    assert record.scenes == tuple(sorted([newest[1].name, oldest[0].name]))


def test_a_pass_is_never_taken_twice_at_a_place(tmp_path: Path) -> None:
    """Both windows are the same but for a day, so that both have the same best scene."""
    settings = replace(SETTINGS, interval_days=1, window_days=60)
    plan = open_plan(tmp_path, settings, set())
    source = FakeSource(settings, Catalogue(cloudiness=0.0))

    record = collected(collector_in(tmp_path, plan, source), 0)

    assert len({name.partition("_")[0] for name in record.scenes}) == 2


class Refusing(FakeSource):
    """A source that refuses every search in which a place is."""

    refused = 2

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        found = super().search(places)
        if self.refused in [place.number for place in places]:
            raise Refused("User memory limit exceeded")
        return found


def test_a_refused_search_is_asked_again_by_halves_and_condemns_no_other_place(
    tmp_path: Path,
) -> None:
    plan = open_plan(tmp_path, SETTINGS, set())
    source = Refusing(SETTINGS, Catalogue(cloudiness=0.0))

    found = collector_in(tmp_path, plan, source).search(range(5))

    assert [place.number for place, _ in found] == [0, 1, 2, 3, 4]
    assert [isinstance(one, Lack) for _, one in found] == [False, False, True, False, False]
    assert found[2][1] == Lack("refused", "User memory limit exceeded")
    assert source.searched == {0: 2, 1: 2, 2: 3, 3: 3, 4: 3}
