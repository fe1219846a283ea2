"""A loopback Earth Engine per module, and one small collection that nothing disturbed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.miniature.services.earth_engine import EarthEngineServer, earth_engine
from tests.references.downloader_runs import PLAN, collect, flags


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
