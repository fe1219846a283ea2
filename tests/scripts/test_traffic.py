"""Counting what a step moves."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.roofline import Traffic, count_views
from benchmarks.traffic import main


def test_traffic_adds_up_what_operators_read_and_write() -> None:
    a, b = torch.zeros(1000), torch.zeros(1000)
    with Traffic() as traffic:
        c = a + b  # two operands and a result of 4,000 bytes
        c.view(10, 100).T.unsqueeze(0)  # nothing moves
        traffic.part = "product"
        c.mul_(torch.zeros(1).expand(1000))  # an expanded number has 4 bytes
    assert traffic.kernels == {"other": 1, "product": 2}  # with the zeros
    assert traffic.bytes == {"other": 12_000, "product": 4 + (4_000 + 4 + 4_000)}


@pytest.mark.parametrize("data_mode", ["seco", "moco"])
def test_augmentation_stays_within_its_budget(data_mode: str) -> None:
    """For 256 samples of four views: moco has two views, which are both augmented."""
    pytest.importorskip("triton", reason="Triton is not installed")
    count_views(traffic := Traffic(), 256, 224, data_mode)
    assert sum(traffic.bytes.values()) / 1e9 <= 4.5
    assert sum(traffic.kernels.values()) <= 80


def test_the_table_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    main(["--batch_size", "4", "--crop_size", "64", "--json", str(tmp_path / "t.json")])
    parts = json.loads((tmp_path / "t.json").read_text())["parts"]
    assert {"stretch", "colour", "maps", "resample", "normalise"} <= parts.keys()
    assert {"query", "keys", "backward", "optimiser"} <= parts.keys()
    # Three keys are encoded, and one query.
    assert parts["keys"]["GB"] == pytest.approx(3 * parts["query"]["GB"], rel=0.02)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"augmentation: \d+\.\d GB in \d+ kernels", last)
