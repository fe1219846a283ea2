"""One LMDB of the small BigEarthNet for all tests of this folder."""

from pathlib import Path

import pytest

from datasets.bigearthnet_dataset import main


@pytest.fixture(scope="package")
def lmdb_root(bigearthnet_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bands of the 50 patches. Read only."""
    save_dir = tmp_path_factory.mktemp("lmdb") / "saved"
    paths = ["--data_dir", str(bigearthnet_root), "--save_dir", str(save_dir)]
    main([*paths, "--num_workers", "0"])
    return save_dir
