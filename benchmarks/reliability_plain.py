"""What the other tests do to our scripts, done to a plain Lightning script with its defaults.

A trial fails if work is lost that a user of main_pretrain.py keeps: if the same command begins at
step 0 again, a damaged checkpoint is resumed without a word, or weights become NaN.
"""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.plain_training import BATCH_SIZE, main
from benchmarks.trials import Trial
from datasets.mini_earth import write_seco

_PLACES, _EPOCHS = 12, 3
_EPOCH = _PLACES // BATCH_SIZE  # steps
_STEPS = _EPOCH * _EPOCHS
_HANG_S = 600.0
_STEP_S = 0.05  # of waiting in each step, so that kills hit all parts of a run
Act = Callable[[Trainer, Any], None]


class _Watch(Callback):
    """Count the steps in a file, and do something before one of them."""

    def __init__(self, folder: Path, at: int, act: Act) -> None:
        self.path, self.at, self.act = folder / "steps", at, act
        self.path.write_bytes(b"")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        with self.path.open("ab") as file:
            file.write(b"%d\n" % trainer.global_step)
        if trainer.global_step == self.at:
            self.act(trainer, batch)
        time.sleep(_STEP_S)


def kills(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Kill runs by SIGKILL at random instants, and start the same command again.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Scratch folder.
    """
    for number in range(start, stop):
        draw = random.Random(number)
        at, delay = draw.randrange(_STEPS), draw.uniform(0, 2 * _STEP_S)

        def act(*_: Any, delay: float = delay) -> None:
            Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

        name = f"{number}: SIGKILL {delay:.3f} s after the start of step {at}"
        yield Trial(name, _again(folder, at, act))


def signals(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Send SIGTERM at random steps, and start the same command again; arguments as in ``kills``."""
    for number in range(start, stop):
        at = random.Random(number).randrange(_STEPS)

        def act(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        yield Trial(f"{number}: SIGTERM at step {at}", _again(folder, at, act))


def flips(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Flip a bit of a checkpoint and resume it by hand; arguments as in ``kills``."""
    data, made = _data(folder), folder / "whole"
    if not made.exists():
        _run(lambda: main(data, made, max_epochs=1))
    (source,) = made.rglob("*.ckpt")
    whole, path = source.read_bytes(), folder / "flipped.ckpt"
    for number in range(start, stop):
        bit = random.Random(number).randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        code = _run(lambda run=run: main(data, run, max_epochs=1, ckpt_path=path))  # type: ignore[misc]
        yield Trial(f"{number}: bit {bit}", None if code else _difference(source, path))


def full_disks(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Let the second checkpoint find no space; arguments as in ``kills``.

    A limit of the size of files stands for the disk.
    """
    for number in range(start, stop):
        size = int(random.Random(number).uniform(1e4, 4e5))

        def act(*_: Any, size: int = size) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        run, code = _fresh(folder), 0
        code = _train(folder, run, _EPOCH, act)
        failure = None if code else "the run took no notice"
        for path in sorted(run.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)[-1:]:
            try:
                torch.load(path, weights_only=True)
            except Exception as error:
                failure = f"the newest checkpoint is unreadable: {type(error).__name__}"
        yield Trial(f"{number}: no space after {size:,} bytes", failure)


def bad_batches(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Put NaN into a batch at a random step; arguments as in ``kills``."""
    for number in range(start, stop):
        at = random.Random(number).randrange(_STEPS)

        def act(trainer: Trainer, batch: Any) -> None:
            batch[0, 0, 0, 0, 0] = torch.nan

        run = _fresh(folder)
        code = _train(folder, run, at, act)
        failure = None if code else _not_finite(run)
        yield Trial(f"{number}: NaN in step {at}", failure)


def killed_workers(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Kill a loader process, and start the same command again; arguments as in ``kills``."""
    from multiprocessing import active_children

    for number in range(start, stop):
        at = random.Random(number).randrange(_STEPS)

        def act(*_: Any) -> None:
            for child in active_children():
                child.kill()

        failure = _again(folder, at, act, num_workers=1)
        yield Trial(f"{number}: loader process killed in step {at}", failure)


def _again(
    folder: Path,
    at: int = -1,
    act: Act = lambda *_: None,
    *,
    num_workers: int = 0,
) -> str | None:
    """Run until something ends it, then the same command; return from where it began."""
    run = _fresh(folder)
    code = _train(folder, run, at, act, num_workers)
    done = len((run / "steps").read_bytes().split()) - 1 if (run / "steps").exists() else 0
    saved = done // _EPOCH * _EPOCH  # at the end of an epoch, by default
    kept = saved if code == -signal.SIGKILL else done  # others than SIGKILL can be answered
    if code == 0 or kept < 1:
        return None  # there was nothing to keep
    _train(folder, run, -1, lambda *_: None)
    first = int((run / "steps").read_bytes().split()[0])
    if first < kept:
        lost = f"the same command loses {done - first} of {done} steps"
        return f"ended with {code}; {lost}, with the newest checkpoint by hand {done - saved}"
    return None


def _data(folder: Path) -> Path:
    data = folder / "data"
    if not data.exists():
        write_seco(
            data, num_places=_PLACES, num_dates=2, size=32, bands=("B4", "B3", "B2"), num_workers=1
        )
    return data


def _fresh(folder: Path) -> Path:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    return run


def _train(folder: Path, run: Path, at: int, act: Act, num_workers: int = 0) -> int:
    data = _data(folder)

    def train() -> None:
        watch = _Watch(run, at, act)
        main(data, run, max_epochs=_EPOCHS, num_workers=num_workers, callbacks=[watch])

    return _run(train)


def _run(train: Callable[[], Any]) -> int:
    """Run in a forked child; return its exit code, below 0 that of a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            torch.set_num_threads(1)
            train()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        finally:
            os._exit(code)
    end = time.monotonic() + _HANG_S
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"a run of seconds has not ended after {_HANG_S:g} s")


def _difference(source: Path, damaged: Path) -> str | None:
    """Return what a flipped bit changed in what was resumed."""
    whole, found = (torch.load(path, weights_only=True) for path in (source, damaged))
    state, other = whole["state_dict"], found["state_dict"]
    wrong = [name for name in state if name not in other or not state[name].equal(other[name])]
    if wrong:
        return f"resumed with another {wrong[0]}"
    return None if str(whole) == str(found) else "resumed with another state"


def _not_finite(run: Path) -> str | None:
    """Return the names of tensors with NaN in the last checkpoint."""
    path = max(run.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    state = torch.load(path, weights_only=True)["state_dict"]
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    return f"{len(wrong)} of {len(state)} tensors are NaN at the end" if wrong else None
