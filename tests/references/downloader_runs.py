"""Run datasets/seco_downloader.py in process: flags of a small plan and of a server, exit code."""

from pathlib import Path

from datasets import seco_downloader
from datasets.miniature.services.earth_engine import EarthEngineServer
from utils.cli import run

PLAN = [
    *("--num_locations", "12", "--patch_px", "12", "--num_dates", "3", "--no_land_mask"),
    *("--reference_date", "2022-03-01", "--bands", "B4", "B3", "B2"),
]


def flags(save_path: Path, server: EarthEngineServer, *more: str) -> list[str]:
    common = ["--ee_url", server.url, "--retry_wait", "0.01", "--min_free_gb", "0"]
    return ["--save_path", str(save_path), "--num_workers", "8", *common, *more]


def collect(argv: list[str]) -> int:
    """Run in this process; return the exit code."""
    try:
        run(lambda: seco_downloader.main(argv))
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0
