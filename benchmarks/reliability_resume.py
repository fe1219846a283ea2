"""Stop pre-trainings anywhere, resume them, and compare every bit with an undisturbed run.

Three modes, four kinds of data, 0 and 2 loader processes, 1 and 2 training processes: 48 ways to
train, each stopped three times at a step and by a signal of its own. Nine more trials resume with
another number of processes, and compare the samples of every step instead.
"""

import faulthandler
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.training_trials import import_all, without_pictures
from benchmarks.trials import Trial
from datasets.mini_earth import write_seco
from datasets.seco_datamodule import SecoDataModule
from datasets.seco_packed import main as pack
from main_pretrain import main as pretrain
from models.moco2_module import MocoV2

MODES, SOURCES = ("moco", "moco_tp", "seco"), ("folder", "zip", "store", "chunks")
_PLACES, _EPOCHS, _BATCH = 8, 3, 4  # samples per step of all processes together
_FLAGS = (
    *("--base_encoder", "resnet18_slim", "--crop_size", "32", "--num_negatives", "16", "--gpus"),
    *("0", "--max_epochs", str(_EPOCHS), "--log_every_n_steps", "1", "--resume", "auto"),
    *("--emb_dim", "8", "--precision", "32-true", "--no_report"),
)
_HANG_S = 3600.0  # of a machine that is very busy
_Stop = tuple[int, int, bool]  # step, signal, and whether all processes receive it


class Setting(NamedTuple):
    """A way to train.

    Args:
        mode: ``--data_mode``.
        source: Kind of data, of ``SOURCES``.
        workers: Loader processes.
        processes: Training processes.
    """

    mode: str
    source: str
    workers: int
    processes: int

    @property
    def steps(self) -> int:
        """Steps of the whole run; in mode moco each of four dates is a sample."""
        return _EPOCHS * _PLACES * (4 if self.mode == "moco" else 1) // _BATCH


SETTINGS = [Setting(*each) for each in product(MODES, SOURCES, (0, 2), (1, 2))]
OTHERS = [Setting(*each, 0, 2) for each in product(MODES, SOURCES[:3])]
COUNT = 3 * len(SETTINGS) + len(OTHERS)


def part(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Run some of the ``COUNT`` trials.

    Args:
        start: First trial.
        stop: Trial after the last one.
        folder: Folder of data, which are kept, of undisturbed runs and of those of trials.
    """
    import_all()  # else a child would import later code than the one before it
    shutil.rmtree(folder / "whole", ignore_errors=True)  # they may be of other code
    _make_data(folder / "data")
    for number in range(start, min(stop, COUNT)):
        draw = random.Random(number)
        others = number - 3 * len(SETTINGS)
        setting = OTHERS[others] if others >= 0 else SETTINGS[number % len(SETTINGS)]
        step = draw.randrange(1, setting.steps)
        sent = draw.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL])
        to_all = setting.processes == 1 or sent == signal.SIGKILL or draw.random() < 0.5
        name = f"{setting.mode} {setting.source}, {setting.workers} workers, {setting.processes} "
        name += f"processes, {sent.name} {'to all' if to_all else 'to one'} at step {step}"
        resumed = setting._replace(processes=1) if others >= 0 else setting
        name += f", resumed by {resumed.processes}" * (others >= 0)
        yield Trial(name, _try(folder, setting, (step, sent, to_all), resumed))


def _try(folder: Path, setting: Setting, stop: _Stop, resumed: Setting) -> str | None:
    """Stop, resume and compare; return what is wrong."""
    data, whole = folder / "data", folder / "whole" / "-".join(map(str, setting))
    if not (whole / "done").exists():
        shutil.rmtree(whole, ignore_errors=True)
        if codes := set(_run(setting, data, whole)) - {0}:
            return f"the undisturbed run ended with {codes}: {_last_line(whole)}"
        (whole / "done").touch()
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    killed = stop[1] == signal.SIGKILL
    codes = set(_run(setting, data, run, stop))
    if codes != {-signal.SIGKILL if killed else os.EX_TEMPFAIL}:
        return f"exit codes {codes}: {_last_line(run)}"
    if codes := set(_run(resumed, data, run)) - {0}:
        return f"resuming ended with {codes}: {_last_line(run)}"
    if resumed != setting:
        return _difference(_samples(whole), _samples(run), "samples")
    return _difference(_result(whole), _result(run), "")


def _make_data(folder: Path) -> None:
    """Write the same places in all kinds of files."""
    if (folder / "chunks").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    write_seco(folder / "folder", num_places=_PLACES, num_dates=4, size=32, num_workers=1)
    shutil.make_archive(str(folder / "zip"), "zip", folder / "folder")
    (folder / "zip.zip").rename(folder / "zip")
    for name, form in (("store", "raw"), ("chunks", "litdata")):
        where = ["--data_dir", str(folder / "folder"), "--save_path", str(folder / name)]
        pack([*where, "--num_workers", "1", "--format", form])


def _run(setting: Setting, data: Path, log_dir: Path, stop: _Stop | None = None) -> list[int]:
    """Run all processes of a training, and return their exit codes.

    They are forked: a new Python would import torch and Lightning for seconds.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children: list[int] = []
    for rank in range(setting.processes):
        child = os.fork()
        if child == 0:
            _train(setting, data, log_dir, stop, rank, port)
        children.append(child)
        os.setpgid(child, children[0])  # before any of them has come to a step
    end, codes = time.monotonic() + _HANG_S, dict[int, int]()
    while len(codes) < len(children):
        for child in (child for child in children if child not in codes):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return list(codes.values())


def _train(
    setting: Setting, data: Path, log_dir: Path, stop: _Stop | None, rank: int, port: int
) -> None:
    """Train in a forked process, as one that torchrun starts, and leave with its exit code."""
    with (log_dir / f"output_{rank}.txt").open("a") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    if setting.processes > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "MASTER_PORT": port}
        numbers |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), setting.processes)
        texts = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "1", "GLOO_SOCKET_IFNAME": "lo"}
        os.environ |= {name: str(number) for name, number in numbers.items()} | texts
    watched = log_dir / f"samples_{rank}.jsonl"
    _watch(watched, stop if stop is None or stop[2] or rank == 0 else None)
    batch, minutes = _BATCH // setting.processes, "1e-9" if stop and stop[1] == 9 else "30"
    flags = ["--data_dir", data / setting.source, "--data_mode", setting.mode, "--log_dir", log_dir]
    flags += ["--num_workers", setting.workers, "--batch_size", batch]
    sys.argv = ["main_pretrain.py", *_FLAGS, *map(str, flags), "--save_every_minutes", minutes]
    from utils.cli import run

    code: Any = 0
    try:
        with without_pictures():
            run(pretrain)
        of_numpy = np.random.get_state()  # noqa: NPY002  # that nothing has drawn from it
        states = {"torch": str(torch.get_rng_state().tolist()), "python": str(random.getstate())}
        states["numpy"] = str(of_numpy)
        (log_dir / f"random_{rank}.json").write_text(json.dumps(states))
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def _watch(samples: Path, stop: _Stop | None) -> None:
    """Record the samples of every step, and send the signal after the step."""
    before = SecoDataModule.on_before_batch_transfer

    def record(self: SecoDataModule, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        drawn = [batch["epoch"].tolist(), batch["index"].tolist()]
        with samples.open("a") as file:
            line = [self.trainer.global_step, self.trainer.world_size, drawn]
            file.write(json.dumps(line) + "\n")
        return before(self, batch, dataloader_idx)

    def send(self: MocoV2, outputs: Any, batch: Any, batch_idx: int) -> None:
        if stop is not None and self.trainer.global_step == stop[0]:
            (os.killpg if stop[2] else os.kill)(0 if stop[2] else os.getpid(), stop[1])

    SecoDataModule.on_before_batch_transfer = record  # type: ignore[method-assign]
    MocoV2.on_train_batch_end = send  # type: ignore[assignment, method-assign]


def _result(log_dir: Path) -> dict[str, Any]:
    """Return all that a run leaves: its checkpoint, its history, and its random states."""
    (run_dir,) = log_dir.glob("pretrain-*/version_*")
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    metrics = json.loads((run_dir / "results.json").read_text())["metrics"]
    states = {path.name: json.loads(path.read_text()) for path in log_dir.glob("random_*")}
    history = (run_dir / "metrics.csv").read_text().splitlines()
    return {"last.ckpt": checkpoint, "metrics.csv": history, "results.json": metrics} | states


def _samples(log_dir: Path) -> dict[int, Any]:
    """Return the samples of every step of all processes; a step that is repeated counts last."""
    steps: dict[int, dict[int, Any]] = {}
    sizes: dict[int, int] = {}  # of the last run of each step: the one before may have drawn, too
    for path in sorted(log_dir.glob("samples_*.jsonl"), reverse=True):
        for line in path.read_text().splitlines():
            step, sizes[step], drawn = json.loads(line)
            steps.setdefault(step, {})[int(path.stem.removeprefix("samples_"))] = drawn
    return {
        step: sorted(
            pair
            for rank, each in ranks.items()
            if rank < sizes[step]
            for pair in zip(*each, strict=True)
        )
        for step, ranks in steps.items()
    }


def _difference(first: Any, second: Any, path: str) -> str | None:
    """Return where two nested values differ, bit for bit; None if they are equal."""
    if type(first) is not type(second):
        return f"{path} differs in type"
    if isinstance(first, torch.Tensor):
        is_equal = first.dtype == second.dtype and torch.equal(first, second)
        return None if is_equal else f"{path} differs"
    pairs: Sequence[tuple[Any, Any, Any]]
    if isinstance(first, Mapping):
        if first.keys() != second.keys():
            return f"{path} has other names"
        pairs = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, list | tuple) and len(first) == len(second):
        pairs = [(key, *pair) for key, pair in enumerate(zip(first, second, strict=True))]
    else:
        return None if first == second else f"{path} is {str(first)[:80]}, then {str(second)[:80]}"
    found = (_difference(one, other, f"{path}/{key}") for key, one, other in pairs)
    return next(filter(None, found), None)


def _last_line(log_dir: Path) -> str:
    texts = [path.read_text().strip() for path in sorted(log_dir.glob("output_*.txt"))]
    return " | ".join(text.splitlines()[-1][:200] for text in texts if text)
