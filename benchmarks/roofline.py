"""How fast the device could be: its measured ceilings, and what a training step costs.

A step cannot be faster than its arithmetic at the rate of a large matrix product, nor than its
memory traffic at the rate of a large copy. Operations run one after another, and few of them are at
both ceilings at once; the sum of the two times is what good code without fusion comes near to.
"""

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # tensors without memory: no public name
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bare_loop import SPACES, BareLoop
from benchmarks.timing import Measure, rate
from benchmarks.traffic_count import Traffic
from models.moco2_module import MocoV2
from utils.precision import auto_precision


@dataclass(frozen=True)
class StepCost:
    """What a training step on one sample costs, without augmentation.

    Attributes:
        flop: Floating-point operations of convolutions and matrix products; a multiply-add is two.
        traffic: Bytes that the operations read and write, each by itself, in eager mode.
    """

    flop: float
    traffic: float


@dataclass(frozen=True)
class Roofline:
    """Samples per second at the ceilings of a device."""

    arithmetic: float
    memory: float

    @property
    def one_after_another(self) -> float:
        """Rate if arithmetic and memory traffic never overlap."""
        return 1 / (1 / self.arithmetic + 1 / self.memory)


def roofline(cost: StepCost, flop_per_s: float, bytes_per_s: float) -> Roofline:
    """Turn measured ceilings into rates of the step."""
    return Roofline(flop_per_s / cost.flop, bytes_per_s / cost.traffic)


def step_cost(
    base_encoder: str,
    crop_size: int,
    batch_size: int,
    num_negatives: int = 16384,
    autocast: torch.dtype | None = None,
) -> StepCost:
    """Count a step of the real model, on tensors without content: nothing is computed.

    Args:
        base_encoder: Name of a torchvision ResNet.
        crop_size: Side of a view in pixels.
        batch_size: Samples of a step; what is done once per step is shared by them.
        num_negatives: Length of each queue.
        autocast: Type of the arithmetic, None for float32.
    """
    with FakeTensorMode():
        model = MocoV2(base_encoder, num_negatives=num_negatives, emb_spaces=SPACES)
        loop = BareLoop(model, autocast)
        images = torch.empty(batch_size, 3, crop_size, crop_size)
        with FlopCounterMode(display=False) as counter, Traffic() as traffic:
            loop.step(images, [images] * SPACES)
    return StepCost(
        counter.get_total_flops() / batch_size, sum(traffic.bytes.values()) / batch_size
    )


def ceilings(device: torch.device) -> dict[str, Measure]:
    """Measure what the device does at most, in operations or bytes per second."""
    cases = {gemm_name(None): gemm(device, torch.float32), "ceiling/copy": copy(device)}
    if device.type == "cuda" or auto_precision(on_gpu=False) == "bf16-mixed":
        cases[gemm_name(torch.bfloat16)] = gemm(device, torch.bfloat16)
    return cases


def gemm_name(autocast: torch.dtype | None) -> str:
    """Name the matrix product of a type; None is float32."""
    return f"ceiling/GEMM {str(autocast or torch.float32).removeprefix('torch.')}"


def gemm(device: torch.device, dtype: torch.dtype) -> Measure:
    """Measure floating-point operations per second of a large square matrix product."""
    size, calls = (8192, 20) if device.type == "cuda" else (1536, 2)
    left, right, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))

    def work() -> None:
        for _ in range(calls):
            torch.mm(left, right, out=out)

    work()  # libraries are loaded by the first call
    return rate(work, 2 * size**3 * calls, device)


def copy(device: torch.device) -> Measure:
    """Measure bytes per second, read and written, of a copy that no cache holds."""
    size, calls = (2**30, 20) if device.type == "cuda" else (2**27, 4)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))

    def work() -> None:
        for _ in range(calls):
            target.copy_(source)

    work()
    return rate(work, 2 * size * calls, device)
