"""The benchmark of the downloader measures what its names promise."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import download


def test_benchmark_reports_speed_requests_and_completeness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "RESULTS", tmp_path / "download.json")
    monkeypatch.setattr(download, "FAULTS", (0.0, 0.3))
    monkeypatch.setattr(download, "LATENCY_S", 0.0)
    files: dict[str, int] = {}  # pictures in each folder that the benchmark removes
    remove = shutil.rmtree

    def counted(path: Any, **options: Any) -> None:
        if Path(path).name in ("decoded", "collection"):
            files[Path(path).name] = len(list(Path(path).glob("[0-9]*/*/*.tif")))
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", counted)
    flags = ["--num_places", "3", "--rounds", "1", "--patch_px", "12", "--retry_wait", "0.01"]
    picture = tmp_path / "download.png"
    found = download.main([*flags, "--scratch", str(tmp_path), "--json", "--plot", str(picture)])

    assert files == {"decoded": 3 * 5 * 12, "collection": 3 * 5 * 12}
    assert [run["share"] for run in found["runs"]] == [0.0, 0.3]
    assert all(run["places"] == run["wanted"] == 3 for run in found["runs"])
    assert found["is_complete"]
    assert 1 < found["requests_per_image"] <= download.GOAL_REQUESTS
    assert found["runs"][1]["requests_per_image"] > found["requests_per_image"]
    assert found["mb_per_image"] > 12 * 12 * 12 * 2 / 1e6  # pixels, bands, bytes
    [decoded] = found["images_per_second"][download.DECODE]["values"]
    bound = min(decoded, download.MAX_REQUESTS / found["requests_per_image"])
    assert found["share_of_bound"] == pytest.approx(found["runs"][0]["images_per_s"] / bound)
    assert "all places complete and verified: met" in capsys.readouterr().out
    written = json.loads((tmp_path / "download.json").read_text())
    assert written["share_of_bound"] == found["share_of_bound"]
    assert {path.name for path in tmp_path.iterdir()} == {"download.json", "download.png"}
