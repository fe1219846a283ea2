"""One small OSCD for all tests of this folder."""

from pathlib import Path

import pytest

from datasets.mini_earth import write_oscd


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training cities and two test cities of 60 px in one folder. Read only."""
    path = tmp_path_factory.mktemp("mini_earth") / "oscd"
    write_oscd(path, num_cities=4, size=60, num_workers=1)
    return path
