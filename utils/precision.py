"""Numerical precision of a run, and which precisions a device supports without emulation."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the flags are parsed before torch is imported
    import torch

# Lightning's name of each precision, and torch's name of the type of autocast.
PRECISIONS = {
    **{"32-true": None, "32": None},
    **{"bf16-mixed": "bfloat16", "16-mixed": "float16", "16": "float16"},
}
# x86 has two kinds of bf16 instructions (Linux, arch/x86/include/asm/cpufeatures.h).
_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
# Values of variables that disable them: in oneDNN's convolutions (its developer guide, "CPU
# dispatcher control"), and in torch's own kernels (aten/src/ATen/native/DispatchStub.cpp).
_ISAS = "SSE41 AVX AVX2 AVX2_VNNI AVX2_VNNI_2 AVX512_CORE AVX512_CORE_VNNI"
_WITHOUT_BF16 = {
    "ONEDNN_MAX_CPU_ISA": _ISAS,
    "DNNL_MAX_CPU_ISA": _ISAS,
    "ATEN_CPU_CAPABILITY": "DEFAULT AVX2",
}
# How many times slower than 32-true emulated bf16 is. CPU: a training step of a ResNet-18 took 7
# times as long on a Xeon limited to AVX2, and 20 times on an AMD EPYC that has AVX2 only. GPU: a T4
# multiplied matrices at less than half the speed (github.com/openxla/xla/issues/12429).
_SLOWER = {"CPU": "7 to 20 times", "GPU": "2 times or more"}


def resolve_precision(args: Namespace, rank: int = 0) -> None:
    """Replace ``--precision auto`` in the flags, print the result, and warn about emulation.

    On a CPU 16-mixed becomes bf16-mixed, because Lightning has no fp16 there.

    Args:
        args: Flags: ``precision`` ("auto" or a key of ``PRECISIONS``), ``gpus`` and ``protocol``;
            "paper" trains in 32-bit floats, as the original does.
        rank: Number of this process; only the first one prints.
    """
    given, on_gpu = args.precision, args.gpus > 0
    if given == "auto":
        args.precision = "32-true" if args.protocol == "paper" else auto_precision(on_gpu)
    elif PRECISIONS[given] == "float16" and not on_gpu:
        args.precision = "bf16-mixed"
    if rank == 0:
        print(f"precision: {args.precision}")
        if args.precision == "bf16-mixed" and not has_bf16(on_gpu):
            device = "GPU" if on_gpu else "CPU"
            print(
                f"warning: this {device} has no bf16 instructions and emulates --precision "
                f"{given}, {_SLOWER[device]} slower than 32-true: use --precision auto",
                file=sys.stderr,
            )


def auto_precision(on_gpu: bool) -> str:
    """Return bf16-mixed if the device supports it without emulation, else 32-true."""
    return "bf16-mixed" if has_bf16(on_gpu) else "32-true"


def has_bf16(on_gpu: bool) -> bool:
    """Return whether the GPU, or the CPU within the limits set for torch, has bf16 instructions."""
    if on_gpu:
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    is_limited = any(
        os.environ.get(name, "").upper() in values.split() for name, values in _WITHOUT_BF16.items()
    )
    return not is_limited and not _BF16_FLAGS.isdisjoint(flags)


def autocast_type(precision: str) -> "torch.dtype | None":
    """Return the type of autocast; None for 32-bit floats."""
    import torch

    name = PRECISIONS[precision]
    return None if name is None else getattr(torch, name)
