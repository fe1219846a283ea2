"""Copies of the data sets of the whole run, to damage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def seco_copy(seco_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(seco_root, tmp_path / "copy"))
