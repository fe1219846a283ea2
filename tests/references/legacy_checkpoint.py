"""Checkpoints as Lightning 1.1 wrote them in 2021, written without that Lightning.

A pickle stores a class or function as the name of its module and its own. So classes of our own
stand under those names while the file is written, and are gone when it is read.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from models.backbones import Encoder


class AttributeDict(dict):
    """Lightning's container of hyper-parameters."""


class ModelCheckpoint:
    """Lightning's callback, whose class is a key of a dict in the file."""


def _gpus_arg_default(text: str) -> int | str:
    """Lightning's default of --gpus and --tpu_cores, a function."""
    return text


PLACES: dict[str, Any] = {
    "pytorch_lightning.utilities.parsing": AttributeDict,
    "pytorch_lightning.callbacks.model_checkpoint": ModelCheckpoint,
    "pytorch_lightning.utilities.argparse_utils": _gpus_arg_default,
}


@contextmanager
def lightning_of_2021() -> Iterator[None]:
    """Put the three objects where Lightning 1.1 had them, for as long as a file is written."""
    modules = ("pytorch_lightning", *PLACES)  # the package stands for itself, imported or not
    before = {module: sys.modules.get(module) for module in modules}
    try:
        sys.modules |= {module: ModuleType(module) for module in modules}
        for module, item in PLACES.items():
            setattr(sys.modules[module], item.__name__, item)
            item.__module__ = module
        yield
    finally:
        for item in PLACES.values():
            item.__module__ = __name__
        for module, original in before.items():
            del sys.modules[module]
            if original is not None:
                sys.modules[module] = original


def legacy_checkpoint(encoder: Encoder, base_encoder: str) -> dict[str, Any]:
    """Return what SeCo's main_pretrain.py had Lightning 1.1 save; save it in the context above.

    To stay small, keys' encoder and momentum hold the first filter alone: nobody reads them.
    """
    head = nn.Sequential(nn.Linear(encoder.num_features, 8), nn.ReLU(), nn.Linear(8, 4))
    stem = encoder.state_dict()["0.weight"]
    optimizer = SGD([nn.Parameter(stem.clone())], lr=0.03, momentum=0.9, weight_decay=1e-4)
    optimizer.param_groups[0]["params"][0].grad = torch.ones_like(stem)
    optimizer.step()
    state = {f"encoder_q.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {"encoder_k.0.weight": stem.clone()}
    for side in "qk":
        state |= {f"heads_{side}.0.{name}": tensor for name, tensor in head.state_dict().items()}
    state |= {"queue": torch.rand(3, 4, 16), "queue_ptr": torch.zeros(3, 1, dtype=torch.long)}
    return {
        "epoch": 199,
        "global_step": 780000,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {
            ModelCheckpoint: {
                "monitor": None,
                "best_model_score": None,
                "best_model_path": "logs/pretrain/epoch=199.ckpt",
                "current_score": torch.tensor(1.5),
                "dirpath": "logs/pretrain",
            }
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [MultiStepLR(optimizer, milestones=[120, 160]).state_dict()],
        "state_dict": OrderedDict(state),
        "hparams_name": "kwargs",
        "hparams_type": AttributeDict,
        "hyper_parameters": AttributeDict(
            base_encoder=base_encoder,
            emb_dim=4,
            num_negatives=16,
            emb_spaces=3,
            encoder_momentum=0.999,
            softmax_temperature=0.07,
            learning_rate=0.03,
            momentum=0.9,
            weight_decay=1e-4,
            schedule=[120, 160],
            data_dir="seco_1m",
            gpus=1,
            tpu_cores=_gpus_arg_default,
        ),
    }


def write_legacy_checkpoint(
    path: Path, base_encoder: str = "resnet18", *, as_zip: bool = True
) -> Encoder:
    """Write such a file and return its encoder, in eval mode.

    Args:
        path: File to write.
        base_encoder: Name of a torchvision ResNet.
        as_zip: In the format of torch 1.6 and later, else in the one before.
    """
    encoder = Encoder(base_encoder)
    _draw_statistics(encoder)
    with lightning_of_2021():
        checkpoint = legacy_checkpoint(encoder, base_encoder)
        torch.save(checkpoint, path, _use_new_zipfile_serialization=as_zip)
    return encoder.eval()


def _draw_statistics(encoder: Encoder) -> None:
    """Give batch norms other statistics than those they start with, so that losing them shows."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
