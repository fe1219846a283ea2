"""Write checkpoints completely or not at all, and check them before a run resumes."""

import os
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from utils.errors import NOT_AS_WRITTEN, UserError
from utils.files import written_whole
from utils.input_spec import InputSpec
from utils.torch_files import read_torch_file, save_torch_file

_SHAPE = ("base_encoder", "emb_dim", "num_negatives", "emb_spaces", "in_channels", "input_spec")
_MOST_STEPS = 2**63  # exclusive; TensorBoard's limit of a step
# What Lightning restores, besides weights and hyper-parameters; a file of weights alone lacks it.
# What is in these parts is checked when they are restored, by ``utils.restored``.
_STATE: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("epoch", "global_step"), lambda value: type(value) is int and 0 <= value < _MOST_STEPS
    ),
    # Lightning migrates the files of earlier versions, which have no state that could be resumed.
    "pytorch-lightning_version": lambda value: bool(
        isinstance(value, str) and re.fullmatch(r"[2-9]\.\d[\w.+]{,40}", value)
    ),
    **dict.fromkeys(("loops", "callbacks"), lambda value: isinstance(value, dict)),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), lambda value: isinstance(value, list)),
}
_OPTIMIZER = ("learning_rate", "momentum", "weight_decay")  # the saved values would be used


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of Lightning on the CPU, without running code in it.

    Raises:
        UserError: The file is not a checkpoint of a run, or cannot be read.
    """
    checkpoint = read_torch_file(path)
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{path} holds a {type(checkpoint).__name__}, not a run: use the last.ckpt of its run"
        )
    for part in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint.get(part), dict):
            raise UserError(f"{path} has no {part} of a run: use the last.ckpt of its run")
    return checkpoint


def whole_epochs(path: Path, checkpoint: Mapping[str, Any]) -> int:
    """Return how many epochs a run had finished when it wrote its checkpoint.

    Args:
        path: File of the checkpoint, for the error.
        checkpoint: Its content.

    Raises:
        UserError: The checkpoint is without the state of a run.
    """
    return _num_epochs(path, checkpoint, "processed")


def begun_epochs(path: Path, checkpoint: Mapping[str, Any]) -> int:
    """Return how many epochs a run had begun, as ``whole_epochs`` does those that it had finished.

    Args:
        path: File of the checkpoint, for the error.
        checkpoint: Its content.

    Raises:
        UserError: The checkpoint is without the state of a run.
    """
    return _num_epochs(path, checkpoint, "ready")


def _num_epochs(path: Path, checkpoint: Mapping[str, Any], stage: str) -> int:
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"][stage])
    except NOT_AS_WRITTEN as error:
        raise UserError(f"{path} has no state of a run: use the last.ckpt of its run") from error


def check_resumable(
    path: Path, hparams: Mapping[str, Any], samples_per_step: int, max_epochs: int | None
) -> None:
    """Check that a pre-training can resume with these flags.

    Args:
        path: Checkpoint of the run to resume.
        hparams: Hyper-parameters of the model that resumes it.
        samples_per_step: Samples per step of all processes together.
        max_epochs: Epochs of the whole run; None for a run that may be finished.

    Raises:
        UserError: The run is finished or has other inputs, or a flag would have no effect.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint["hyper_parameters"]
    if "input_spec" not in saved:  # written by the original code with Lightning 1.1
        raise UserError(
            f"{path} was not written by this main_pretrain.py, so its run cannot be resumed: "
            "its encoder can be used with --backbone_type pretrain --ckpt_path"
        )
    _check_same(path, saved, {name: hparams[name] for name in _SHAPE + _OPTIMIZER})
    _check_state(path, checkpoint)
    of_data = checkpoint.get("SecoDataModule", {})  # which old checkpoints lack
    before = of_data.get("samples_per_step") if isinstance(of_data, dict) else of_data
    if of_data and before != samples_per_step:  # epochs would have another number of steps
        raise UserError(
            f"{path} was trained with {reprlib.repr(before)} samples per step, not "
            f"{samples_per_step}: resume with its --batch_size times its number of processes"
        )
    if max_epochs is not None:
        _check_unfinished(path, checkpoint, max_epochs, "max_epochs")


def check_same_run(
    path: Path,
    hyper_parameters: Mapping[str, Any],
    max_epochs: int | None,
    flag: str = "max_epochs",
) -> None:
    """Check that a fine-tuning or change detection can resume.

    Args:
        path: Checkpoint of a module that stores its best epoch.
        hyper_parameters: Hyper-parameters of the run that resumes it.
        max_epochs: Epochs of the whole run; None for a run that may be finished.
        flag: Name of the flag of these epochs, for the error.

    Raises:
        UserError: The checkpoint is of another run, or the run is finished.
    """
    checkpoint = read_checkpoint(path)
    _check_same(path, checkpoint["hyper_parameters"], hyper_parameters)
    if "best" not in checkpoint or "epoch" not in checkpoint:
        raise UserError(f"{path} cannot be resumed: use the last.ckpt of its run")
    _check_state(path, checkpoint)
    if max_epochs is not None:
        _check_unfinished(path, checkpoint, max_epochs, flag)


def _check_same(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse other hyper-parameters than those that the run was trained with."""
    other = [
        f"{name} {reprlib.repr(saved.get(name))}, not {reprlib.repr(value)}"
        for name, value in wanted.items()
        if name not in saved or not _are_same(name, saved[name], value)
    ]
    if other:
        raise UserError(
            f"{path} was trained with {', and with '.join(other)}: resume with the flags of its run"
        )


def _are_same(name: str, saved: Any, value: Any) -> bool:
    try:
        return bool(_comparable(name, saved) == _comparable(name, value))
    except RuntimeError:  # a tensor in the place of a number
        return False


def _comparable(name: str, value: Any) -> Any:
    """Complete an old ``input_spec``, which has no unit; leave anything else as it is."""
    try:
        return InputSpec.from_dict(value) if name == "input_spec" else value
    except (KeyError, TypeError, ValueError, AttributeError):
        return value


def _check_state(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint without the state of a run, such as one of weights alone."""
    for part, is_valid in _STATE.items():
        if not is_valid(checkpoint.get(part)):
            raise UserError(f"{path} has no {part} of a run: use the last.ckpt of its run")


def _check_unfinished(
    path: Path, checkpoint: Mapping[str, Any], max_epochs: int, flag: str
) -> None:
    """Refuse a checkpoint of a finished run."""
    done = whole_epochs(path, checkpoint)
    if done >= max_epochs:
        raise UserError(
            f"{path} has its {done} epochs already: raise --{flag} above {done} to resume"
        )


def check_not_shorter(path: Path, max_epochs: int, flag: str = "max_epochs") -> None:
    """Refuse to end a run before the epochs that it has begun.

    Its results would name fewer epochs than the encoder or classifier has learned from.

    Args:
        path: Checkpoint of the run.
        max_epochs: Epochs of the whole run.
        flag: Name of the flag of these epochs, for the error.
    """
    checkpoint = read_checkpoint(path)
    done, begun = whole_epochs(path, checkpoint), begun_epochs(path, checkpoint)
    if begun > max_epochs:
        epochs = "1 epoch" if done == 1 else f"{done} epochs"
        part = "" if begun == done else " and a part of the next one"
        raise UserError(
            f"{path} has done {epochs}{part}, more than --{flag} {max_epochs}: "
            f"raise it to {begun} or more, or give a new run its own --log_dir"
        )


class WholeCheckpointIO(TorchCheckpointIO):
    """Write Lightning's checkpoints completely or not at all; read them without running code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        # RuntimeError: torch's report of a full disk, or of an interrupted write.
        with written_whole(Path(path), RuntimeError) as partial:
            save_torch_file(checkpoint, partial)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        checkpoint = read_checkpoint(Path(path))
        # Loaders wrote a state until November 2026; now the counted batches are their position.
        checkpoint.get("loops", {}).get("fit_loop", {}).pop("combined_loader", None)
        return checkpoint
