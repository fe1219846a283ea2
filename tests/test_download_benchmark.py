"""The benchmark of the downloader measures what it says."""

import json
from pathlib import Path

import pytest

from benchmarks import download


def test_benchmark_reports_speed_requests_and_completeness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "RESULTS", tmp_path / "download.json")
    monkeypatch.setattr(download, "FAULTS", (0.0, 0.3))
    monkeypatch.setattr(download, "LATENCY_S", 0.0)
    flags = ["--num_places", "3", "--rounds", "2", "--patch_px", "12", "--retry_wait", "0.01"]
    picture = tmp_path / "download.png"
    found = download.main([*flags, "--scratch", str(tmp_path), "--json", "--plot", str(picture)])

    assert [run["share"] for run in found["runs"]] == [0.0, 0.3, 0.0, 0.3]
    assert all(run["places"] == run["wanted"] == 3 for run in found["runs"])
    assert found["is_complete"]
    assert 1 < found["requests_per_image"] <= download.GOAL_REQUESTS
    assert found["runs"][1]["requests_per_image"] > found["requests_per_image"]
    assert found["mb_per_image"] > 12 * 12 * 12 * 2 / 1e6  # pixels, bands, bytes
    bound = [
        min(rate, download.MAX_REQUESTS / found["requests_per_image"])
        for rate in found["images_per_second"][download.DECODE]["values"]
    ]
    speeds = [run["images_per_s"] for run in found["runs"] if run["share"] == 0]
    ratios = [speed / at_most for speed, at_most in zip(speeds, bound, strict=True)]
    assert found["share_of_bound"] == pytest.approx(sum(ratios) / 2)
    assert "all places complete and verified: met" in capsys.readouterr().out
    written = json.loads((tmp_path / "download.json").read_text())
    assert written["share_of_bound"] == found["share_of_bound"]
    assert picture.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"download.json", "download.png"}


def test_decoding_in_memory_writes_every_image_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = download.parse_args(["--num_places", "3", "--patch_px", "12"])
    monkeypatch.setattr(download.shutil, "rmtree", lambda path, **_: None)
    with download.serving([0.0]) as [server]:
        flags = download.downloader_flags(args, tmp_path, server)
        plan = download.make_plan(download.collect_args.settings_of(flags))
        source, grid, scenes = download.warm_up(plan, flags)
        memory = download.Remembering(plan.settings, source._adapter)
        memory.read(scenes[0], grid)
        received = source._adapter.bytes_received
        download.decode_once(plan, memory, scenes, tmp_path, num_workers=2)

    assert source._adapter.bytes_received == received
    assert len(list((tmp_path / "decoded").glob("[0-9]*/*/*.tif"))) == 3 * 5 * 12
