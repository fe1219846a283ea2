"""Flags, summaries, tables and exports that the evaluation scripts share."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from utils.cli import share_cores
from utils.errors import UserError
from utils.files import check_can_write, written_whole
from utils.flags import Parser, check_fraction, check_positive
from utils.launch import World, planned_world
from utils.precision import resolve_precision

if TYPE_CHECKING:  # the scripts parse their flags before torch is imported
    from torch import Tensor

_PREDICTION_SUFFIXES = (".npz", ".parquet")
_HEADLINES = (  # in percent; a result has one of them
    *("test/accuracy", "val/accuracy_batch_mean", "test/map_micro", "val/map_micro_batch_mean"),
    "test/f1",
)
_TEXT = ("metric", "method", "per seed")  # columns of text, which are aligned on the left


def add_evaluation_args(parser: Parser, num_seeds: int = 3) -> None:
    """Add the flags of repetitions, label shares and exports."""
    add = parser.group("evaluation").add_argument
    add(
        "--num_seeds",
        type=int,
        default=num_seeds,
        help="Repetitions; they use --seed, --seed + 1 and so on.",
    )
    add(
        "--train_frac",
        type=float,
        nargs="+",
        metavar="SHARE",
        default=[1.0],
        help="Share of the training labels in 0..1; several make a curve.",
    )
    add("--val_frac", type=float, default=1.0, help="Share of the validation set to use, in 0..1.")
    add = parser.group("output").add_argument
    add(
        "--save_predictions",
        type=Path,
        metavar="FILE",
        help="File for the predictions on the test set, .npz or .parquet.",
    )


def check_evaluation_flags(args: Namespace) -> None:
    """Refuse values that cannot work, before anything is read."""
    check_positive(args, "num_seeds")
    for frac in args.train_frac:
        check_fraction("train_frac", frac)
    check_fraction("val_frac", args.val_frac)
    if len(set(args.train_frac)) < len(args.train_frac):
        raise UserError("--train_frac names a share twice: each is one point of the curve")
    path = args.save_predictions
    if path is not None:
        if path.suffix not in _PREDICTION_SUFFIXES:
            raise UserError(f"--save_predictions {path} must end in .npz or .parquet")
        check_can_write("save_predictions", path, is_folder=False)
    if args.seed + args.num_seeds > 2**32:
        raise UserError(f"--seed {args.seed} and those after it must be below 2**32: lower it")


def check_resume_flag(args: Namespace, writes_checkpoints: bool) -> None:
    """Refuse ``--resume_from_checkpoint`` for a probe, and for more than one training.

    Args:
        args: Flags of the run.
        writes_checkpoints: Whether the run trains something that can be resumed.
    """
    if args.resume_from_checkpoint is None:
        return
    if not writes_checkpoints:
        raise UserError(
            "--resume_from_checkpoint: probes write no checkpoint, omit it; it resumes --method "
            "finetune alone"
        )
    if (args.num_seeds, len(args.train_frac)) != (1, 1):
        raise UserError(
            "--resume_from_checkpoint resumes one training: add --num_seeds 1, the --seed of its "
            "folder and one --train_frac"
        )


def check_full_batch(args: Namespace, counts: dict[str, int]) -> None:
    """Refuse splits of less than one batch under ``--protocol paper``, which drops partial ones."""
    for split, count in counts.items():
        if args.protocol == "paper" and count < args.batch_size:
            raise UserError(
                f"--batch_size {args.batch_size} is more than the {count} {split} images, and "
                "--protocol paper drops the last batch if it is not full"
            )


def input_norm(args: Namespace) -> str:
    """Return ``--input_norm``, or if it was not given the normalisation of the protocol."""
    return args.input_norm or ("paper" if args.protocol == "paper" else "auto")


def plan_processes(args: Namespace) -> World:
    """Return the processes of the run; only fine-tuning uses more than one."""
    world = planned_world(args)
    resolve_precision(args, world.rank)
    if world.size > 1 and world.rank == 0 and set(args.method) != {"finetune"}:
        print("probes run on one device: only finetune uses the others", file=sys.stderr)
    share_cores(args.gpus, world.per_node if "finetune" in args.method else 1, 0)
    return world


def seeds(args: Namespace) -> range:
    """Return the seed of every repetition."""
    return range(args.seed, args.seed + args.num_seeds)


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation; None for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else None


def summarise(
    name: str, per_seed: Sequence[float], interval: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Return mean, sample deviation, raw values and, if given, the 95 % interval of a metric.

    Args:
        name: Name of the metric.
        per_seed: Its value in every repetition, in percent.
        interval: Low and high end, in percent.
    """
    average, std = mean_and_std(per_seed)
    summary = {name: average, f"{name}_std": std, f"{name}_per_seed": list(per_seed)}
    return summary if interval is None else summary | {f"{name}_interval": list(interval)}


def curve_points(
    results: Mapping[str, Mapping[str, Any]], name: str
) -> dict[float, tuple[float, float | None]]:
    """Return mean and deviation of a metric for each share of the labels, to be plotted.

    Args:
        results: Summaries by share, as text.
        name: Name of the metric.
    """
    return {float(frac): (r[name], r[f"{name}_std"]) for frac, r in results.items()}


def print_table(
    results: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]], names: Sequence[str]
) -> None:
    """Print one table with a line for each metric of each result, in percent.

    Args:
        results: For each result its cells by column, such as method and labels, and its metrics as
            ``summarise`` returns them.
        names: Metrics in the order of the table; a result may lack some of them.
    """
    lines = [
        {"metric": name} | dict(cells) | _metric_cells(metrics, name)
        for name in names
        for cells, metrics in results
        if name in metrics
    ]
    columns = list(lines[0])
    widths = {c: max(len(c), *(len(line[c]) for line in lines)) for c in columns}
    for line in ({column: column for column in columns}, *lines):
        cells = [line[c].ljust(widths[c]) if c in _TEXT else line[c].rjust(widths[c]) for c in line]
        print("  ".join(cells).rstrip())


def print_finished(of: str, metrics: Mapping[str, Any]) -> None:
    """Print the most important metric of one result as soon as it is finished.

    Args:
        of: Method and labels of the result, such as "linear, 60 labels".
        metrics: As ``summarise`` returns them.
    """
    name = next(name for name in _HEADLINES if name in metrics)
    print(f"{of}: {name} {metrics[name]:.2f} %", flush=True)


def _metric_cells(metrics: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return mean, deviation, 95 % interval and the values of the seeds as text."""
    std, interval = metrics[f"{name}_std"], metrics.get(f"{name}_interval")
    return {
        "mean %": f"{metrics[name]:.2f}",
        "deviation": "-" if std is None else f"{std:.2f}",
        "95 % interval": "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
        "per seed": " ".join(f"{value:.2f}" for value in metrics[f"{name}_per_seed"]),
    }


def save_predictions(
    path: Path,
    names: Sequence[str],
    targets: Tensor,
    scores: Tensor,
    embeddings: Tensor | None = None,
) -> None:
    """Write predictions whole or not at all, as an npz (no pickles) or a parquet file.

    Args:
        path: ``.npz`` or ``.parquet``.
        names: Name of each sample.
        targets: Classes, (N,), or multi-hot labels, (N, C).
        scores: Scores of the first seed, shape (N, C).
        embeddings: Features, shape (N, D), if there are any.
    """
    import numpy as np

    arrays = {"targets": targets.numpy(), "scores": scores.float().numpy()}
    if embeddings is not None:
        arrays["embeddings"] = embeddings.numpy()
    with written_whole(path) as partial, partial.open("wb") as file:
        if path.suffix == ".npz":
            arrays["names"] = np.array(names, dtype=np.str_)
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its allow_pickle
        else:
            import pyarrow as pa  # only this needs it
            import pyarrow.parquet as pq

            columns = {name: array.tolist() for name, array in arrays.items()}
            pq.write_table(pa.table({"names": list(names)} | columns), file)
