"""A loopback Earth Engine per module, plans, and a small collection that nothing disturbed."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from datasets.collect.plan import Plan, make_plan
from datasets.collect.settings import Settings
from datasets.miniature.services.earth_engine import EarthEngineServer, earth_engine
from tests.references.downloader_runs import PLAN, collect, flags


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
