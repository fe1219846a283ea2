"""Count operators and bytes of a step on tensors without memory, see ``benchmarks.traffic``."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

# Torch documents these by their underscored names; tests/scripts/test_traffic.py uses all of them.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.bare_loop import SPACES
from datasets.seco.data_modes import DATA_MODES
from models.moco2_module import MocoV2
from utils import fused_views
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.input_spec import SECO_SPEC
from utils.transforms import Augment

PATCH_SIZE = 264  # of SeCo's patches, px
# Which operator of a view belongs to which part.
_VIEW_PARTS = {
    "seco::grey_sums": "colour",
    "seco::pictures": "colour",
    "seco::resize_map": "maps",
    "seco::blur_map": "maps",
    "seco::finish_views": "normalise",
}


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
        if not _is_free(func, read, written):
            part = _VIEW_PARTS.get(func._schema.name, self.part)
            self.kernels[part] += 1
            self.bytes[part] += sum(map(_num_bytes, [*read, *written]))
        return result


def _tensors(nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def _is_free(func: Any, read: Sequence[Tensor], written: Sequence[Tensor]) -> bool:
    """Return whether an operator is a view, an allocation or a query, which touch no memory."""
    if func._schema.name.startswith(("aten::empty", "aten::new_empty", "prim::")):
        return True
    stored = {tensor.untyped_storage()._cdata for tensor in read}
    is_view = all(tensor.untyped_storage()._cdata in stored for tensor in written)
    return is_view and not func._schema.is_mutable


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
