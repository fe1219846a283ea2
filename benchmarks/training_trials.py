"""Tiny pre-trainings in forked children, which may be sabotaged, and the states they must have.

A child starts in milliseconds, because its parent has imported everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import main_pretrain
from benchmarks.sabotage import Sabotage
from datasets.mini_earth import write_seco
from utils.cli import run

if TYPE_CHECKING:
    from torch import Tensor

# Three steps per epoch, six in all, and a checkpoint before each.
FLAGS = (
    *("--data_mode", "seco", "--base_encoder", "resnet18_slim", "--crop_size", "32"),
    *("--batch_size", "2", "--num_negatives", "16", "--emb_dim", "8", "--max_epochs", "2"),
    *("--num_workers", "0", "--gpus", "0", "--precision", "32-true", "--log_every_n_steps", "1"),
    *("--save_every_minutes", "1e-9"),
)
NO_REPORT = "--no_report"  # it takes as long as the training
HANG_S = 300.0  # of a run of two seconds; the machine may be busy
FINAL = "final"


class Reference(NamedTuple):
    """An undisturbed run."""

    states: dict[str, str]  # fingerprint of each checkpoint by ``moment``, and of the last one
    calls: int  # system calls that write checkpoints
    log_calls: int  # system calls that write anything into the folder of the run
    seconds: float  # that it took


class Ended(NamedTuple):
    """How a run ended."""

    code: int  # below 0: the signal that ended it
    text: str  # what it printed


def fingerprint(checkpoint: Mapping[str, Any]) -> str:
    """Return a digest of nested dicts, lists, tensors and plain values.

    Args:
        checkpoint: Content of a checkpoint.
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value, key=str):
                digest.update(f"{{{key!r}".encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            digest.update(b"[")
            for each in value:
                add(each)
        elif hasattr(value, "numpy"):
            tensor: Tensor = value
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().numpy().tobytes())
        else:
            digest.update(f"{value!r};".encode())

    add(checkpoint)
    return digest.hexdigest()


def moment(checkpoint: Mapping[str, Any]) -> str:
    """Return when a run wrote a checkpoint: its step, and whether the epoch was over.

    Args:
        checkpoint: Content of a checkpoint.
    """
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return f"{checkpoint['global_step']} {batches['is_last_batch']}"


def flags_of(folder: Path, log_dir: Path) -> list[str]:
    """Return the command line of a run.

    Args:
        folder: Folder of the trials.
        log_dir: Folder of the run.
    """
    return ["--data_dir", str(folder / "seco"), "--log_dir", str(log_dir), *FLAGS]


@cache
def reference(folder: Path) -> Reference:
    """Train undisturbed, once for all trials of a folder.

    Args:
        folder: Folder of the trials.
    """
    path = folder / "reference.json"
    if not path.exists():
        import_all()
        if not (folder / "seco").exists():
            write_seco(folder / "seco", num_places=6, num_dates=4, size=48, num_workers=1)
        started = time.perf_counter()
        log_dir = folder / "reference" / "logs"
        log_dir.parent.mkdir()
        ended = wait(start(folder, log_dir, NO_REPORT, prepare=lambda: _record(path)), log_dir)
        if ended.code:
            raise RuntimeError(f"the reference failed: {ended}")
        content = json.loads(path.read_text()) | {"seconds": time.perf_counter() - started}
        content["states"][FINAL] = fingerprint(last_checkpoint(log_dir))
        path.write_text(json.dumps(content))
    return Reference(**json.loads(path.read_text()))


def import_all() -> None:
    """Import what a run imports, so that its child need not."""
    for name in (
        *("datasets.seco_datamodule", "models.moco2_module", "models.pretrain_run"),
        *("datasets.store.litdata_loader", "tensorboard.summary.writer.record_writer"),
    ):
        import_module(name)


def start(
    folder: Path, log_dir: Path, *flags: str, prepare: Callable[[], object] = lambda: None
) -> int:
    """Start a run in a child, and return the number of its process.

    Args:
        folder: Folder of the trials.
        log_dir: Folder of the run; what it prints is written next to it.
        flags: Flags besides those of all runs.
        prepare: Called in the child before the run.
    """
    import_all()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            printed = os.open(_printed(log_dir), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            # Those of a test are not the descriptors.
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
            prepare()
            argv = [*flags_of(folder, log_dir), "--resume", "auto", *flags]
            with without_pictures():
                run(lambda: main_pretrain.main(argv))
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def wait(child: int, log_dir: Path | None = None, kill_after: float = HANG_S) -> Ended:
    """Wait for a run, and kill it after a time.

    Args:
        child: Number of its process.
        log_dir: Folder of the run, for what it printed.
        kill_after: Seconds.
    """
    deadline = time.monotonic() + kill_after
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            done = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    text = _printed(log_dir).read_text(errors="replace") if log_dir else ""
    return Ended(os.waitstatus_to_exitcode(done[1]), text)


@contextmanager
def without_pictures() -> Iterator[None]:
    """Draw no figures, which take as long as the training."""
    with patch.multiple(
        "models.pretrain_run", plot_views=lambda *_: None, plot_training=lambda *_: None
    ):
        yield


def checkpoints_of(log_dir: Path, name: str) -> list[Path]:
    """Return the checkpoints of one name of all runs.

    Args:
        log_dir: Folder of the runs.
        name: Such as last.ckpt.
    """
    return sorted(log_dir.glob(f"pretrain-*/version_*/checkpoints/{name}"))


def last_checkpoint(log_dir: Path) -> dict[str, Any]:
    """Read the last.ckpt of the only run.

    Args:
        log_dir: Folder of the run.
    """
    from utils.checkpoint import read_checkpoint

    (path,) = checkpoints_of(log_dir, "last.ckpt")
    return read_checkpoint(path)


def _record(path: Path) -> None:
    """Write the fingerprint of each checkpoint of this run, and the number of calls."""
    from utils.checkpoint import WholeCheckpointIO

    save, states = WholeCheckpointIO.save_checkpoint, dict[str, str]()
    sabotage, of_logs = (Sabotage(name, lambda _, call: call()) for name in ("checkpoints", "logs"))
    sabotage.install()
    of_logs.install()

    def save_and_record(
        self: WholeCheckpointIO, checkpoint: dict[str, Any], *arguments: Any, **keywords: Any
    ) -> None:
        save(self, checkpoint, *arguments, **keywords)
        states[moment(checkpoint)] = fingerprint(checkpoint)
        found = {"states": states, "calls": sabotage.calls, "log_calls": of_logs.calls}
        path.write_text(json.dumps(found))

    WholeCheckpointIO.save_checkpoint = save_and_record  # type: ignore[method-assign]


def _printed(log_dir: Path) -> Path:
    return log_dir.with_suffix(".txt")
