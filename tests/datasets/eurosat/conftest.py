"""Both archives of EuroSAT in small, for all tests of this folder."""

from pathlib import Path

import pytest

from datasets.mini_earth import write_eurosat


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 classes x 5 pictures of 16 px without lists: 30, 10 and 10. Read only."""
    root = tmp_path_factory.mktemp("mini_earth") / "2750"
    write_eurosat(root, images_per_class=5, size=16, num_workers=1)
    return root


@pytest.fixture(scope="package")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as GeoTIFFs. Read only."""
    root = tmp_path_factory.mktemp("mini_earth") / "EuroSAT_MS"
    write_eurosat(root, images_per_class=5, size=16, all_bands=True, num_workers=1)
    return root
