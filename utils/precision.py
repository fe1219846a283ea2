"""Precisions of the arithmetic, and which of them the device is made for."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the flags are parsed before torch is imported
    import torch

# Lightning's names of the precisions, and torch's name of the type that autocast computes in.
PRECISIONS = {
    "32-true": None,
    "32": None,
    "bf16-mixed": "bfloat16",
    "16-mixed": "float16",
    "16": "float16",
}
_CPU_INFO = Path("/proc/cpuinfo")


def auto_precision(on_gpu: bool) -> str:
    """Return bf16-mixed where the device computes in it, else 32-true.

    Other processors emulate bf16: training is then many times slower than in float32.
    """
    if on_gpu:
        import torch

        has_bf16 = torch.cuda.is_bf16_supported(False)
    else:
        has_bf16 = _cpu_has_bf16()
    return "bf16-mixed" if has_bf16 else "32-true"


def _cpu_has_bf16() -> bool:
    """Look for bf16 instructions where Linux lists them; x86 has two kinds."""
    text = _CPU_INFO.read_text() if _CPU_INFO.exists() else ""
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    return bool(lines) and not {"avx512_bf16", "amx_bf16"}.isdisjoint(lines[0].split())


def autocast_type(precision: str) -> "torch.dtype | None":
    """Return the type that autocast computes in, None for 32-bit floats."""
    import torch

    name = PRECISIONS[precision]
    return None if name is None else getattr(torch, name)
