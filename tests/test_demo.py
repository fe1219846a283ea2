"""The demo at its real size: what `make demo` promises."""

from pathlib import Path

import pytest

from benchmarks import demo


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pre_training_wins_by_five_points_with_few_labels(tmp_path: Path) -> None:
    metrics = demo.main(["--log_dir", str(tmp_path)])
    assert metrics["pretrain/10"]["test"] >= metrics["random/10"]["test"] + 5
    assert metrics["pretrain/all"]["test"] > metrics["random/all"]["test"]
    assert (tmp_path / "demo/version_0/demo.png").is_file()
