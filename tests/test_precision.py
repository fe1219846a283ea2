"""Which precision a device is made for."""

from pathlib import Path

import pytest
import torch

from utils import precision
from utils.precision import PRECISIONS, auto_precision


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16", "bf16-mixed"),
        ("fpu amx_bf16 amx_tile", "bf16-mixed"),
        ("fpu avx2 avx512f", "32-true"),
    ],
)
def test_processors_with_bf16_instructions_use_them(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nmodel name : avx512_bf16\nflags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "_CPU_INFO", info)
    assert auto_precision(on_gpu=False) == expected


def test_an_unknown_processor_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_CPU_INFO", Path("nowhere"))
    assert auto_precision(on_gpu=False) == "32-true"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_gpus_that_only_emulate_bf16_compute_in_float32(
    has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return has_bf16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert auto_precision(on_gpu=True) == expected
    assert asked == [False]
    assert expected in PRECISIONS
