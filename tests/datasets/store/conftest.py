"""LitData chunks of numbered patches."""

from pathlib import Path

import pytest

from datasets.store.litdata_writer import write_litdata
from tests.references.numbered_patches import CHUNK_BYTES, Numbered


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 50 places, 199 patches; read only."""
    root = tmp_path_factory.mktemp("litdata") / "set"
    write_litdata(Numbered(), root, chunk_bytes=CHUNK_BYTES)
    return root
