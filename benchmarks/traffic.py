"""Count what one training step moves on a GPU, without a GPU: ``python -m benchmarks.traffic``.

Every operator is called once on tensors without memory, and its operands and results are added up:
the bytes that it reads and writes if nothing stays in the cache. A step can be no faster than these
bytes at the memory bandwidth. Views are counted as CUDA tensors, so that they take the path of a
GPU; the network as CPU tensors under the CPU's autocast, whose operators are the same, because
torch cannot differentiate CUDA tensors where there is no driver.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.bare_loop import SPACES
from datasets.seco.data_modes import DATA_MODES
from models.moco2_module import MocoV2
from utils import fused_views
from utils.augment_config import AugmentConfig
from utils.cli import run
from utils.data import sample_keys
from utils.flags import Parser, check_positive
from utils.input_spec import SECO_SPEC
from utils.transforms import Augment

# GB/s; data sheets of NVIDIA H100 SXM5 and H200 SXM (3.35 and 4.8 TB/s), of A100-80 SXM (2.04).
BANDWIDTHS = {"H200": 4800.0, "H100": 3350.0, "A100": 2039.0}
PATCH_SIZE = 264  # of SeCo's patches, px
# Which operator of a view belongs to which part.
_VIEW_PARTS = {
    "seco::grey_sums": "colour",
    "seco::pictures": "colour",
    "seco::resize_map": "maps",
    "seco::blur_map": "maps",
    "seco::finish_views": "normalise",
}
GOAL_GB, GOAL_KERNELS = 4.5, 80  # for the augmentation of 256 samples of four views of 224 px


class Traffic(TorchDispatchMode):
    """Count operators and bytes, by part of the step.

    Attributes:
        kernels: Operators per part; each stands for one kernel.
        bytes: Bytes per part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = "other"
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count under this name."""
        before, self.part = self.part, part
        yield
        self.part = before

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read, written = _tensors((args, kwargs)), _tensors(result)
        stored = {_storage(tensor) for tensor in read}
        is_view = not func._schema.is_mutable and all(_storage(t) in stored for t in written)
        if not is_view:
            part = _VIEW_PARTS.get(func._schema.name, self.part)
            self.kernels[part] += 1
            self.bytes[part] += sum(map(_num_bytes, [*read, *written]))
        return result


def _tensors(nested: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(nested)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _num_bytes(tensor: Tensor) -> int:
    """Return the bytes behind a tensor; expanded ones have fewer than elements."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def count_views(traffic: Traffic, batch_size: int, crop_size: int, data_mode: str) -> None:
    """Count the augmentation of one batch: every view of its mode."""
    mode = DATA_MODES[data_mode]
    config = AugmentConfig(crop_size=crop_size, crop_first=mode.crop_first)
    keys = sample_keys(0, torch.zeros(batch_size).long(), torch.arange(batch_size))
    size = (PATCH_SIZE, PATCH_SIZE)
    augment = Augment(SECO_SPEC, config)
    augment.fused = fused_views
    drawn = [
        augment.draw(keys, stream, view.synthetic, size) for stream, view in enumerate(mode.views)
    ]
    with FakeTensorMode(), torch.device("cuda"):
        for name, buffer in list(augment.named_buffers()):
            setattr(augment, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        patches = torch.empty(batch_size, mode.num_dates, 3, *size, dtype=torch.uint8)
        moved = [replace(each, values=torch.empty(each.values.shape)) for each in drawn]
        with traffic, traffic.of("resample"):
            for view, draws in zip(mode.views, moved, strict=True):
                augment.make(patches[:, view.date], draws)


def count_network(traffic: Traffic, batch_size: int, crop_size: int, base_encoder: str) -> None:
    """Count forward passes, loss, backward pass and optimiser of one step."""
    with FakeTensorMode():
        model = MocoV2(base_encoder, emb_spaces=SPACES)
        # Hooks of a module run before and after its operators.
        for encoder, part in ((model.encoder_q, "query"), (model.encoder_k, "keys")):
            encoder.register_forward_pre_hook(lambda *_, part=part: setattr(traffic, "part", part))
            encoder.register_forward_hook(lambda *_: setattr(traffic, "part", "heads and queues"))
        optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, foreach=True)
        view = torch.empty(batch_size, 3, crop_size, crop_size)
        view = view.contiguous(memory_format=torch.channels_last)
        for step in range(2):  # momentum exists from the second step on
            counted = traffic if step else Traffic()
            with counted, counted.of("heads and queues"):
                with torch.autocast("cpu", torch.bfloat16):
                    logits, targets = model(view, [view] * SPACES)
                loss = torch.stack([cross_entropy(scores, targets) for scores in logits]).sum()
                traffic.part = counted.part = "backward"
                loss.backward()
                traffic.part = counted.part = "optimiser"
                optimizer.step()
                optimizer.zero_grad()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the table, and return it."""
    args = parse_args(argv)
    views, network = Traffic(), Traffic()
    count_views(views, args.batch_size, args.crop_size, args.data_mode)
    count_network(network, args.batch_size, args.crop_size, args.base_encoder)
    parts = {
        part: {"GB": bytes_ / 1e9, "kernels": traffic.kernels[part]}
        for traffic in (views, network)
        for part, bytes_ in traffic.bytes.items()
    }
    what = f"{args.base_encoder}, batch {args.batch_size}, {args.crop_size} px"
    print(f"{what}: counted, not measured")
    print(f"{'part':18s}{'GB':>8s}{'kernels':>9s}" + "".join(f"{n:>9s}" for n in BANDWIDTHS))
    for part, row in parts.items():
        times = "".join(f"{1000 * row['GB'] / b:6.2f} ms" for b in BANDWIDTHS.values())
        print(f"{part:18s}{row['GB']:8.2f}{row['kernels']:9d}{times}")
    result = {"parts": parts, "GB/s": BANDWIDTHS}
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    total, kernels = sum(views.bytes.values()) / 1e9, sum(views.kernels.values())
    print(f"augmentation: {total:.1f} GB in {kernels} kernels")
    return result


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    parser.add_argument("--base_encoder", default="resnet18", help="Name of a torchvision ResNet.")
    parser.add_argument("--batch_size", type=int, default=256, help="Samples of a step.")
    parser.add_argument("--crop_size", type=int, default=224, help="Side of a view in pixels.")
    parser.add_argument("--data_mode", choices=DATA_MODES, default="seco", help="Kind of samples.")
    parser.add_argument("--json", type=Path, help="File to write the table to.")
    args = parser.parse_args(argv)
    check_positive(args, "batch_size", "crop_size")
    return args


if __name__ == "__main__":
    run(main)
