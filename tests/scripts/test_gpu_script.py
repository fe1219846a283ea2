"""The script for a GPU, as far as it runs without one."""

import json
import signal
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_checks
from benchmarks.timing import Rates
from utils.errors import UserError

CPU = torch.device("cpu")


def broken() -> dict[str, Any]:
    return {"figure": 1 / 0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no GPU is found: "):
        gpu.main(["--save_path", str(tmp_path / "gpu.json")])
    assert not list(tmp_path.iterdir())


def test_results_are_saved_after_each_part_also_after_one_that_fails() -> None:
    saved: list[dict[str, Mapping[str, Any]]] = []

    def interrupted() -> dict[str, Any]:
        signal.raise_signal(signal.SIGALRM)  # as at the end of the time
        return {}

    parts: dict[str, gpu.Part] = {
        "first": lambda: {"figure": 1},
        "broken": broken,
        "last": interrupted,
    }
    found = gpu.run_parts(parts, lambda done: saved.append(dict(done)), seconds=600)
    assert [list(done) for done in saved] == [list(parts)[:count] for count in (1, 2, 3)]
    assert saved[-1] == found
    assert found["first"]["figure"] == 1
    over = "TimeoutError: the time for all parts is over"
    errors = [part.get("error", "") for part in found.values()]
    assert errors == ["", "ZeroDivisionError: division by zero", over]
    late = gpu.run_parts(parts, lambda _: None, seconds=0)
    assert [part["error"] for part in late.values()] == [over] * 3


def test_the_json_holds_parts_goals_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def parts(args: Namespace, scratch: Path) -> dict[str, gpu.Part]:
        return {
            "augmentation": lambda: {"augment/device": Rates((256_000.0,)), "kernels": {"a": 1.0}},
            "broken": broken,
        }

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # is restored
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(gpu, "all_parts", parts)
    path = tmp_path / "gpu.json"
    with pytest.raises(UserError, match=r"^1 of 2 parts failed: broken$"):
        gpu.main(["--save_path", str(path)])
    result = json.loads(path.read_text())
    assert result["device"] == "NVIDIA H200"
    assert result["parts"]["augmentation"]["augment/device"]["median"] == 256_000
    verdicts = {row["target"]: row["verdict"] for row in result["targets"]}
    assert verdicts["ms per 1,024 views"] == "met"
    assert verdicts["ResNet-18, samples/s"] == "not measured"
    assert "ms per 1,024 views" in capsys.readouterr().out


def test_each_part_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    sizes = {"batch_size": 2, "crop_size": 32, "num_places": 6, "num_drawn": 1, "repeats": 1}
    sizes |= {"warm_up": 1, "steps": 1, "num_threads": 1, "gpus": 0}
    parts = gpu.all_parts(Namespace(**sizes, precision="32-true"), tmp_path)
    assert list(parts)[1:7] == [
        *("store", "augmentation", "upload", "cache gpu", "no waiting", "resnet18")
    ]
    found = gpu.run_parts({n: parts[n] for n in list(parts)[1:7]}, lambda _: None, seconds=600)
    assert [name for name, part in found.items() if "error" in part] == []
    assert modes == ["error", "default"] * 3  # a store, a store on the device, and Lightning
    assert found["upload"]["GB/s"] > 0
    rates = {
        "augment/device",
        "augment/draw",
        "augment/plain torch",
        "load/store",
        "load/store on GPU",
    }
    rates |= {"resnet18/step, views", "resnet18/step, patches"}
    assert rates == {n for part in found.values() for n in part if isinstance(part[n], Rates)}


def test_views_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(gpu_checks, "BANDS", (1,))  # others: tests/utils/test_fused_views.py
    assert len(gpu_checks.views(CPU, size=(9, 8))) == 8
    monkeypatch.setattr(gpu_checks, "_difference", lambda *_: {"mean": torch.nan, "max": 0.0})
    with pytest.raises(ValueError, match="1 bands, crop last, augmented, paper: "):
        gpu_checks.views(CPU, size=(9, 8))
