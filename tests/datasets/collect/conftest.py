"""A loopback Earth Engine and catalogue per module, plans, and a small undisturbed collection."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from datasets.collect.plan import Plan, make_plan
from datasets.collect.scenes import Scene
from datasets.collect.settings import Settings
from datasets.miniature.services.earth_engine import EarthEngineServer, earth_engine
from tests.references.downloader_runs import PLAN, collect, flags
from tests.servers.stac_server import StacServer, place_at, scenes_of, stac


@pytest.fixture(autouse=True, scope="session")
def _plans_once() -> Iterator[None]:
    """Choose the places of the same settings once: each of 120 zones takes PROJ milliseconds."""
    plans = cache(make_plan)

    def plan_of(settings: Settings) -> Plan:
        is_fixed = settings.match_file is None and settings.cities == Settings.cities
        return (plans if is_fixed and not settings.land_mask else make_plan)(settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.collect.plan.make_plan", plan_of)
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[EarthEngineServer]:
    with earth_engine() as running:
        yield running


@pytest.fixture(scope="session")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of 12 places x 3 dates. Read only."""
    save_path = tmp_path_factory.mktemp("collect") / "downloaded"
    with earth_engine() as running:
        assert collect(flags(save_path, running, *PLAN)) == 0
    return save_path


@pytest.fixture(scope="module")
def shared_stac_server() -> Iterator[StacServer]:
    with stac() as running:
        yield running


@pytest.fixture
def stac_server(
    shared_stac_server: StacServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StacServer]:
    """A catalogue without faults, which are repeated at once."""
    monkeypatch.setattr("datasets.collect.stac_files.PAUSE_S", 0)
    before = dict(vars(shared_stac_server))
    yield shared_stac_server
    shared_stac_server.edit, shared_stac_server.half_m = before["edit"], before["half_m"]
    left = [kind for kind, faults in shared_stac_server.faults.items() if faults]
    for kind in left:
        shared_stac_server.faults[kind].clear()
    assert not left


@pytest.fixture(scope="module")
def scene(shared_stac_server: StacServer) -> Scene:
    """One of the catalogue that has an offset."""
    found = scenes_of(shared_stac_server, place_at())
    return next(scene for scene in found if scene.valid_fraction == 1 and scene.key.offset)
