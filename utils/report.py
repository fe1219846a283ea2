"""Folder of a run, and its results.json with arguments, versions and machine."""

import hashlib
import json
import os
import platform
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterable
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from utils.files import remove_abandoned, written_whole

_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "numpy",
    "rasterio",
    "pillow",
    "opencv-python-headless",
)


def write_json(path: Path, content: Any) -> None:
    """Write JSON completely or not at all.

    Args:
        path: File to write.
        content: Plain values; others are written as their text.
    """
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n")


def new_run_dir(log_dir: Path, name: str) -> Path:
    """Create the next free ``<log_dir>/<name>/version_N``, also if two runs start at once.

    Args:
        log_dir: Folder of all runs.
        name: Name of the script's runs.
    """
    parent = log_dir / name
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent.rglob(".*.partial"))  # of killed runs
    taken = [path.name.removeprefix("version_") for path in parent.glob("version_*")]
    for number in count(max((int(text) for text in taken if text.isdigit()), default=-1) + 1):
        run_dir = parent / f"version_{number}"
        try:
            run_dir.mkdir()
        except FileExistsError:
            continue
        break
    return run_dir


def run_dir_of_rank(args: Namespace, name: str, rank: int) -> Path | None:
    """Create the folder of a run in the process of rank 0, the only one that writes.

    Args:
        args: Flags of the run.
        name: Name of the script's runs.
        rank: Rank of this process.

    Returns:
        The folder; in other processes the folder of all runs; None with ``--debug``.
    """
    if args.debug:
        return None
    return new_run_dir(args.log_dir, name) if rank == 0 else args.log_dir / name


def share_dir(run_dir: Path | None, frac: float, num_shares: int) -> Path | None:
    """Return the folder of the results for one share of the labels.

    Args:
        run_dir: Folder of the run; None if nothing is written.
        frac: Share of the labels, in 0..1.
        num_shares: Number of shares of the run; a single share needs no folder of its own.
    """
    return run_dir if run_dir is None or num_shares == 1 else run_dir / f"frac={frac:g}"


def provenance(args: Namespace) -> dict[str, Any]:
    """Collect arguments, versions, commit and machine of this run."""
    import torch  # the run has imported it already

    return {
        "arguments": dict(sorted(vars(args).items())),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),  # a resumed run has the same bits with as many
    }


def digest_of(texts: Iterable[str]) -> str:
    """Return 16 hexadecimal digits, which are equal only for the same texts in the same order.

    Args:
        texts: Names that identify a data set.
    """
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def save_results(
    run_dir: Path | None,
    args: Namespace,
    metrics: dict[str, Any],
    started: float,
    finished: bool = False,
) -> None:
    """Write ``results.json``, also during a run, because the rest may be interrupted.

    Args:
        run_dir: Folder of the run; None writes nothing.
        args: Flags of the run.
        metrics: Plain numbers and lists.
        started: ``time.perf_counter()`` at the start of the run.
        finished: Whether all results are there.
    """
    if run_dir is not None:
        seconds = round(time.perf_counter() - started, 2)
        content = {"metrics": metrics, "seconds": seconds, "finished": finished}
        write_json(run_dir / "results.json", content | provenance(args))


def write_results(
    path: Path, args: Namespace, metrics: dict[str, Any], started: float, checkpoint: Path | None
) -> None:
    """Write the final ``results.json``, and print its path and that of the encoder.

    Args:
        path: File to write.
        args: Flags of the run.
        metrics: Results, plain values by name.
        started: ``time.perf_counter()`` at the start of the run, s.
        checkpoint: Encoder of the run; None if it wrote none.
    """
    save_results(path.parent, args, metrics, started, finished=True)
    if checkpoint is not None:
        print(f"checkpoint: {checkpoint}")
    print(f"results: {path}")


def _git_commit() -> str | None:
    """Return the commit of this folder, with ``+`` if files differ from it; None outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _cpu_name() -> str:
    """Return the name of the processor, on Linux the exact model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
