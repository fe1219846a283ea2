"""Which precision a device is made for, and what is said about it."""

import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.references.script import in_processes
from utils import precision
from utils.precision import PRECISIONS, auto_precision, autocast_type, resolve_precision

ROOT = Path(__file__).parents[2]
# Flags of real processors, shortened: Xeon of 2023, EPYC 9004, Xeon of 2019, EPYC 7003.
SAPPHIRE_RAPIDS = "fpu avx2 avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile"
GENOA = "fpu avx2 avx512f avx512_bf16"
CASCADE_LAKE = "fpu avx2 avx512f avx512_vnni"
MILAN = "fpu avx2 vaes"
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for /proc/cpuinfo, which does not exist yet; without limits from outside."""
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def write_cpu_info(path: Path, flags: str) -> None:
    path.write_text(f"processor : 0\nmodel name : avx512_bf16\nflags\t\t: {flags}\n")


@pytest.mark.parametrize(
    ("flags", "limits", "has_bf16"),
    [
        (SAPPHIRE_RAPIDS, "", True),
        (GENOA, "", True),
        ("fpu amx_bf16 amx_tile", "", True),
        (CASCADE_LAKE, "", False),
        (MILAN, "", False),
        (None, "", False),
        (SAPPHIRE_RAPIDS, "ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2", False),
        (SAPPHIRE_RAPIDS, "ONEDNN_MAX_CPU_ISA=AVX2", False),
        (SAPPHIRE_RAPIDS, "ONEDNN_MAX_CPU_ISA=avx512_core", False),
        (SAPPHIRE_RAPIDS, "DNNL_MAX_CPU_ISA=AVX2", False),
        (SAPPHIRE_RAPIDS, "ATEN_CPU_CAPABILITY=default", False),
        (SAPPHIRE_RAPIDS, "ATEN_CPU_CAPABILITY=avx512", True),
        (SAPPHIRE_RAPIDS, "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16", True),
        (SAPPHIRE_RAPIDS, "ONEDNN_MAX_CPU_ISA=DEFAULT", True),
    ],
)
def test_bf16_is_for_processors_that_may_use_its_instructions(
    processor: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, limits: str, has_bf16: bool
) -> None:
    if flags is not None:
        write_cpu_info(processor, flags)
    for limit in limits.split():
        monkeypatch.setenv(*limit.split("="))
    assert auto_precision(on_gpu=False) == ("bf16-mixed" if has_bf16 else "32-true")


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_gpus_that_only_emulate_bf16_compute_in_float32(
    has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert auto_precision(on_gpu=True) == expected


@pytest.mark.parametrize(
    ("asked", "flags", "chosen", "warns"),
    [
        ("auto", MILAN, "32-true", False),
        ("auto", GENOA, "bf16-mixed", False),
        ("32", MILAN, "32", False),
        ("bf16-mixed", GENOA, "bf16-mixed", False),
        ("bf16-mixed", MILAN, "bf16-mixed", True),
        ("16-mixed", MILAN, "bf16-mixed", True),
        ("16", MILAN, "bf16-mixed", True),
        ("16-mixed", GENOA, "bf16-mixed", False),
    ],
)
def test_the_precision_is_printed_once_and_emulation_is_warned_of_once(
    processor: Path, capsys: pytest.CaptureFixture[str], asked: str, flags: str, chosen: str,
    warns: bool,
) -> None:  # fmt: skip
    write_cpu_info(processor, flags)
    for rank in range(2):
        args = Namespace(precision=asked, gpus=0, protocol="corrected")
        resolve_precision(args, rank)
        assert args.precision == chosen
    said = capsys.readouterr()
    assert said.out == f"precision: {chosen}\n"
    assert said.err.count("7 to 20 times slower") == said.err.count("\n") == warns


@pytest.mark.difference("auto-precision")
def test_the_papers_protocol_computes_in_float32(processor: Path) -> None:
    write_cpu_info(processor, GENOA)
    args = Namespace(precision="auto", gpus=0, protocol="paper")
    resolve_precision(args)
    assert args.precision == "32-true"


def test_names_of_types_are_torchs() -> None:
    kinds = {autocast_type(name) for name in PRECISIONS}
    assert kinds == {None, torch.bfloat16, torch.float16}


def test_the_decision_needs_no_torch() -> None:
    code = "import sys; from utils.precision import auto_precision; auto_precision(on_gpu=False); "
    code += "sys.exit('torch' in sys.modules)"
    assert in_processes("-c", code).returncode == 0


def test_no_command_or_benchmark_asks_for_a_precision_that_may_be_emulated() -> None:
    files = [ROOT / "Makefile", ROOT / "README.md"]
    files += [*ROOT.glob("main_*.py"), *ROOT.glob("benchmarks/*.py")]
    files += [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.sbatch"), *ROOT.glob("examples/*.py")]
    asks = re.compile(r"--precision[\s=\"',]+(bf16|16)")
    texts = {file.name: file.read_text() for file in files}
    assert len(texts) > 20
    assert [name for name, text in texts.items() if asks.search(text)] == []
    assert asks.search('"--precision", "16"')
