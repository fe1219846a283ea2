"""The benchmark of embeddings, small."""

import json
from pathlib import Path

import pytest

from benchmarks import embedding


@pytest.mark.slow
def test_all_figures_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.json"
    sizes = ["--repeats", "1", "--blocks", "1", "--side", "600", "--count", "3000"]
    embedding.main([*sizes, "--save_path", str(path)])
    found = json.loads(path.read_text())
    assert found["tile"]["patches"] == 81
    assert 0.2 < found["overhead"]["ratio"] < 5
    assert "neighbours among 3,000" in capsys.readouterr().out
