"""Run main_pretrain.py on small data, in one process or two, and read its checkpoints."""

import subprocess
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from main_pretrain import main
from tests.references.script import as_flags, in_processes, in_two_forks
from utils.plots import Views

SMALL = as_flags(
    base_encoder="resnet18_slim", crop_size=32, batch_size=3, num_negatives=8, num_workers=0, gpus=0
)
SMALL.append("--no_report")  # it takes as long to draw as a small run takes to train


def run_dirs(log_dir: Path) -> list[Path]:
    return sorted(log_dir.glob("pretrain-*/version_*"))


def tensors(path: Path) -> dict[str, Tensor]:
    checkpoint = torch.load(path, weights_only=True)
    state: dict[str, Tensor] = checkpoint["state_dict"]
    momenta = checkpoint["optimizer_states"][0]["state"]
    return state | {f"momentum {key}": entry["momentum_buffer"] for key, entry in momenta.items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def store_views(path: Path, views: Views) -> None:
    with path.open("wb") as file:
        np.save(file, np.stack(views.pictures))


def pretrain(data_dir: Path, log_dir: Path, *flags: str, draw: bool = False) -> Path:
    """Run the script in process and return the folder of the run.

    Pictures take as long to draw as a small run takes to train. Unless ``draw``, there are no
    curves, and ``views.png`` holds the views as an array (``numpy.load``): (views, B, H, W, 3).
    """
    before = set(run_dirs(log_dir))
    fast = patch.multiple(
        "models.pretrain_run", plot_views=store_views, plot_training=lambda *_: None
    )
    with nullcontext() if draw else fast:
        main(["--data_dir", str(data_dir), "--log_dir", str(log_dir), *SMALL, *flags])
    (created,) = set(run_dirs(log_dir)) - before
    return created


def pretrain_in_two_processes(
    data_dir: Path, log_dir: Path, *flags: str, launcher: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script with 2 processes of 2 samples, started by Lightning or by ``launcher``."""
    where = as_flags(data_dir=data_dir, log_dir=log_dir, batch_size=2)
    where += [] if launcher else ["--num_processes", "2"]
    return in_processes(*(launcher or []), "main_pretrain.py", *SMALL, *where, *flags)


def pretrain_in_two_forks(data_dir: Path, log_dir: Path, output: Path, *flags: str) -> list[int]:
    """Do the same in forks, as workers of torchrun; return their exit codes."""
    argv = [*SMALL, *as_flags(data_dir=data_dir, log_dir=log_dir, batch_size=2), *flags]
    return in_two_forks(main, argv, output)


def state(log_dir: Path, name: str = "last.ckpt") -> dict[str, Tensor]:
    (run_dir,) = log_dir.glob("pretrain-*/*")  # processes share one
    checkpoint = torch.load(run_dir / "checkpoints" / name, weights_only=True)
    tensors: dict[str, Tensor] = checkpoint["state_dict"]
    return tensors
