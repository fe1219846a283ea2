"""What a step costs, counted without computing it, and how fast the device could do it.

Every operator is called once on tensors without memory; its operands and results are the bytes
that it reads and writes if nothing stays in the cache. A step can be no faster than its arithmetic
at the rate of a large matrix product, nor than its bytes at the rate of a large copy. Few
operations are at both ceilings at once; the sum of the two times is what good code without fusion
comes near to.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

# Torch documents these by their underscored names; tests/scripts/test_traffic.py uses all of them.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode  # as above
from torch.utils._pytree import tree_leaves  # as above
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Measure, rate
from datasets.seco.data_modes import DATA_MODES
from models.moco2_module import MocoV2
from utils import fused_views
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.input_spec import SECO_SPEC, InputSpec
from utils.precision import auto_precision
from utils.transforms import Augment

PATCH_SIZE = 264  # of SeCo's patches, px
# Which operator of a view belongs to which part.
_VIEW_PARTS = {
    "seco::grey_sums": "colour",
    "seco::colored": "colour",
    "seco::stretched": "stretch",
    "seco::resize_map": "maps",
    "seco::blur_map": "maps",
    "seco::finish_views": "normalise",
}


class Traffic(TorchDispatchMode):
    """Count operators and bytes, by part of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "other"  # what is counted now
        self.kernels: Counter[str] = Counter()  # operators; each stands for one kernel
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read, written = _tensors((args, kwargs)), _tensors(result)
        if not _is_free(func, read, written):
            part = _VIEW_PARTS.get(func._schema.name, self.part)
            self.kernels[part] += 1
            self.bytes[part] += sum(map(_num_bytes, [*read, *written]))
        return result


def _tensors(nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def _is_free(func: Any, read: Sequence[Tensor], written: Sequence[Tensor]) -> bool:
    """Return whether an operator is a view, an allocation or a query, which touch no memory."""
    # Operators have no public name, and storages without memory no public identity.
    if func._schema.name.startswith(("aten::empty", "aten::new_empty", "prim::")):
        return True
    stored = {tensor.untyped_storage()._cdata for tensor in read}  # as above
    is_view = all(tensor.untyped_storage()._cdata in stored for tensor in written)
    return is_view and not func._schema.is_mutable


def _num_bytes(tensor: Tensor) -> int:
    """Return the bytes behind a tensor; expanded ones have fewer than elements."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def count_views(
    traffic: Traffic, batch_size: int, crop_size: int, data_mode: str, num_bands: int = 3
) -> None:
    """Count the augmentation of one batch: every view of its mode.

    The tensors are CUDA tensors, so that the views take the path of a GPU.

    Args:
        traffic: Counter.
        batch_size: Samples.
        crop_size: Side of a view in pixels.
        data_mode: Key of ``DATA_MODES``.
        num_bands: Bands of the patches; with three, hue is jittered too.
    """
    mode = DATA_MODES[data_mode]
    config = AugmentConfig(crop_size=crop_size, crop_first=mode.crop_first)
    keys = sample_keys(0, torch.zeros(batch_size).long(), torch.arange(batch_size))
    size = (PATCH_SIZE, PATCH_SIZE)
    spec = InputSpec.of_pictures([f"B{band}" for band in range(num_bands)])
    augment = Augment(SECO_SPEC if num_bands == 3 else spec, config)
    augment.fused = fused_views
    drawn = augment.draw_each(keys, mode.streams, size)
    with FakeTensorMode(), torch.device("cuda"):
        for name, buffer in list(augment.named_buffers()):
            setattr(augment, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        patches = torch.empty(batch_size, mode.num_dates, num_bands, *size, dtype=torch.uint8)
        moved = [replace(each, values=torch.empty(each.values.shape)) for each in drawn]
        traffic.part = "resample"
        with traffic:
            for view, draws in zip(mode.views, moved, strict=True):
                augment.make(patches[:, view.date], draws)


def count_network(
    traffic: Traffic,
    batch_size: int,
    crop_size: int,
    base_encoder: str,
    autocast: torch.dtype | None = torch.bfloat16,
    num_bands: int = 3,
) -> int:
    """Count forward passes, loss, backward pass and optimiser of one step; return its operations.

    The tensors are CPU tensors, whose operators are the same, because torch cannot differentiate
    CUDA tensors where there is no driver.

    Args:
        traffic: Counter.
        batch_size: Samples.
        crop_size: Side of a view in pixels.
        base_encoder: Name of a torchvision ResNet.
        autocast: Type of the arithmetic, None for float32.
        num_bands: Channels of the views.
    """
    spaces = DATA_MODES["seco"].emb_spaces
    with FakeTensorMode():
        model = MocoV2(base_encoder, emb_spaces=spaces, in_channels=num_bands)
        model.join_keys = False  # as on a GPU
        # Hooks of a module run before and after its operators.
        for encoder, part in ((model.encoder_q, "query"), (model.encoder_k, "keys")):
            encoder.register_forward_pre_hook(lambda *_, part=part: setattr(traffic, "part", part))
            encoder.register_forward_hook(lambda *_: setattr(traffic, "part", "heads and queues"))
        optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, foreach=True)
        view = torch.empty(batch_size, num_bands, crop_size, crop_size)
        view = view.contiguous(memory_format=torch.channels_last)
        for weights in filter(lambda each: each.requires_grad, model.parameters()):
            optimizer.state[weights]["momentum_buffer"] = torch.empty_like(weights)
        traffic.part = "heads and queues"
        with FlopCounterMode(display=False) as flops, traffic:
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                logits, targets = model(view, [view] * spaces)
            loss = torch.stack([cross_entropy(scores, targets) for scores in logits]).sum()
            traffic.part = "backward"
            loss.backward()
            traffic.part = "optimiser"
            optimizer.step()
            optimizer.zero_grad()
    return int(flops.get_total_flops())


def step_cost(
    base_encoder: str, crop_size: int, batch_size: int, autocast: torch.dtype | None
) -> dict[str, float]:
    """Return what a step on one sample costs, without augmentation.

    Args:
        base_encoder: Name of a torchvision ResNet.
        crop_size: Side of a view in pixels.
        batch_size: Samples of a step, which share what is done once.
        autocast: Type of the arithmetic, None for float32.

    Returns:
        "flop": Operations of convolutions and matrix products; a multiply-add is two.
        "traffic": Bytes that the operators read and write, each by itself.
    """
    flop = count_network(traffic := Traffic(), batch_size, crop_size, base_encoder, autocast)
    return {"flop": flop / batch_size, "traffic": sum(traffic.bytes.values()) / batch_size}


def ceilings(device: torch.device) -> dict[str, Measure]:
    """Measure what the device does at most, in operations or bytes per second."""
    on_gpu = device.type == "cuda"
    size, length, calls = (8192, 2**30, 20) if on_gpu else (1536, 2**27, 3)  # beyond any cache
    types = [torch.float32]
    if auto_precision(on_gpu) == "bf16-mixed":
        types.append(torch.bfloat16)
    cases = {}
    for dtype in types:
        left, right, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
        product = partial(torch.mm, left, right, out=out)
        cases[gemm_name(dtype)] = _repeated(product, calls, 2 * size**3, device)
    source, target = (torch.zeros(length, dtype=torch.uint8, device=device) for _ in range(2))
    cases["ceiling/copy"] = _repeated(partial(target.copy_, source), calls, 2 * length, device)
    return cases


def gemm_name(autocast: torch.dtype | None) -> str:
    """Name the matrix product of a type; None is float32."""
    return f"ceiling/GEMM {str(autocast or torch.float32).removeprefix('torch.')}"


def _repeated(work: Callable[[], object], calls: int, units: int, device: torch.device) -> Measure:
    work()  # libraries are loaded by the first call
    return rate(lambda: [work() for _ in range(calls)], calls * units, device)
