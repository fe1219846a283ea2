"""The benchmark of BigEarthNet measures what it says."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bigearthnet
from datasets.bigearthnet.folder import PatchFolder
from datasets.bigearthnet.index import find_folder


def test_benchmark_reports_ratios_and_probe_times(
    bigearthnet_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigearthnet, "RESULTS", tmp_path / "bigearthnet.json")
    monkeypatch.setattr(bigearthnet, "NUM_TRAIN", 50)
    flags = ["--num_patches", "8", "--repeats", "3", "--probe_epochs", "2", "--num_val", "20"]
    found = bigearthnet.main(["--data_dir", str(bigearthnet_root), *flags, "--json"])
    assert found["lmdb_over_geotiff"]["RGB"] > 2
    assert len(found["patches_per_second"]["LMDB, RGB"]["values"]) == 3
    assert found["extraction_over_encoder"] > 0
    assert found["features_per_second"].keys() == {"features, LMDB", "features, memory"}
    assert sorted(found["probe_seconds_by_num_val"]) == [0, 20]
    written = json.loads((tmp_path / "bigearthnet.json").read_text())
    assert written["lmdb_over_geotiff"] == found["lmdb_over_geotiff"]


def test_reading_cases_read_what_they_name(
    bigearthnet_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, listing = find_folder(bigearthnet_root)
    seen: list[int] = []
    plain = PatchFolder.read

    def counted(self: PatchFolder, name: str, bands: Sequence[str]) -> list[np.ndarray]:
        seen.append(len(bands))
        return plain(self, name, bands)

    monkeypatch.setattr(PatchFolder, "read", counted)
    for work in bigearthnet.reading_cases(source, listing.splits["train"][:2]).values():
        work()
    assert seen == [3, 3, 12, 12, 3, 3]
