"""Checkpoints: written whole or not at all, read without running anything in them."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from utils.errors import UserError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU; whatever is wrong with the file is a ``UserError``.

    Nothing but tensors and builtins is accepted (``weights_only=True``): a file from a stranger
    cannot run code.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's text advises to run what is in the file
        raise UserError(
            f"{path} is not a readable checkpoint: it is damaged, or holds more than tensors and "
            "builtins, which might run code"
        ) from error
    except Exception as error:  # damage meets torch's reader anywhere
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    for part in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint.get(part), dict):
            raise UserError(f"{path} is not a checkpoint of main_pretrain.py: it has no {part}")
    return checkpoint


def check_resumable(
    path: Path, hparams: Mapping[str, Any], samples_per_step: int, max_epochs: int
) -> None:
    """Refuse to go on from a finished run, with other inputs, or with flags without effect.

    Args:
        path: Checkpoint of the run to continue.
        hparams: Hyper-parameters of the model that is to continue it.
        samples_per_step: Samples of a step in all processes together.
        max_epochs: Epochs that the whole run shall have.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint.get("hyper_parameters", {})
    shape = ("base_encoder", "emb_dim", "num_negatives", "emb_spaces", "in_channels", "input_spec")
    optimizer = ("learning_rate", "momentum", "weight_decay")  # restored from the checkpoint
    for name in shape + optimizer:
        if saved.get(name) != hparams[name]:
            raise UserError(
                f"{path} was trained with {name} {saved.get(name)}, not {hparams[name]}: "
                "resume with the flags of its run"
            )
    before = checkpoint.get("SecoDataModule", {}).get("samples_per_step", samples_per_step)
    if before != samples_per_step:  # epochs would have another number of steps
        raise UserError(
            f"{path} was trained with {before} samples per step, not {samples_per_step}: resume "
            "with its --batch_size times its number of processes"
        )
    done = checkpoint["epoch"] + 1  # checkpoints are written after whole epochs
    if done >= max_epochs:
        raise UserError(
            f"{path} has its {done} epochs already: raise --max_epochs above {done} to go on"
        )


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint file, written under another name, flushed to disk, then renamed.

    A run that is killed while it saves leaves the previous file as it was.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except RuntimeError as error:  # torch's words for a full disk
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot write {target}, is the disk full? {reason}") from error
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))
