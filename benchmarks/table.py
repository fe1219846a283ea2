"""All three downstream scripts on the miniature Earth, by both protocols: ``make table``.

Pre-trains the encoder of ``make demo`` (or takes ``--ckpt_path``), then runs main_eurosat.py,
main_bigearthnet.py and main_oscd.py with it and with the random encoder that it started from. The
numbers show that the protocols run and differ; they say nothing about the real data sets.
"""

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import main_bigearthnet
import main_eurosat
import main_oscd
from benchmarks import demo
from datasets.mini_earth import write_bigearthnet, write_eurosat, write_oscd
from utils.cli import run
from utils.files import check_checkpoint
from utils.flags import Parser
from utils.report import new_run_dir, write_results

ENCODERS = ("random", "pretrain")
COMMON = "--num_workers 1 --gpus 0"
# Per data set its folder and its script.
SCRIPTS = {
    "EuroSAT": ("eurosat", main_eurosat.main),
    "BigEarthNet": ("bigearthnet", main_bigearthnet.main),
    "OSCD": ("oscd", main_oscd.main),
}
_PROBE = "--freeze_backbone --learning_rate 1e-3 --batch_size 64 --num_seeds 3 --max_epochs 100"
_TUNE = "--learning_rate 1e-3 --batch_size 32 --max_epochs 10 --num_seeds 1"
_CHANGE = "--max_epochs 40 --batch_size 8 --num_seeds 2"
_PAPER = "--protocol paper"
# The lines of the table: data set and method, key of the result, and flags.
TRIALS = (
    ("EuroSAT, linear", "test/accuracy", "--num_seeds 3 --max_epochs 100"),
    ("EuroSAT, L-BFGS", "test/accuracy", "--method lbfgs --num_seeds 1"),
    ("EuroSAT, 5-NN", "test/accuracy", "--method knn --num_seeds 1"),
    (
        "EuroSAT, linear, paper",
        "val/accuracy_batch_mean",
        f"{_PAPER} --num_seeds 1 --max_epochs 20",
    ),
    ("BigEarthNet, linear", "test/map_micro", _PROBE),
    ("BigEarthNet, linear, paper", "val/map_micro_batch_mean", f"{_PROBE} {_PAPER}"),
    ("BigEarthNet, fine-tuning", "test/map_micro", _TUNE),
    ("OSCD, frozen", "test/f1", _CHANGE),
    ("OSCD, frozen, paper", "val/f1_batch_mean", f"{_CHANGE} {_PAPER}"),
)


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--log_dir", type=Path, default=Path("logs"), help="where to write")
    add("--ckpt_path", type=Path, help="encoder of an earlier demo, instead of pre-training one")
    add("--seed", type=int, default=0, help="seed of world, training and probes")
    add("--num_places", type=int, default=demo.NUM_PLACES, help="places to pre-train on")
    add("--images_per_class", type=int, default=200, help="of EuroSAT")
    add("--num_patches", type=int, default=800, help="of BigEarthNet")
    add("--num_cities", type=int, default=8, help="of OSCD")
    add("--max_epochs", type=int, help="of the pre-training, if not the demo's")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Fill the table and return it: for each trial the result of each encoder."""
    started = time.perf_counter()
    args = parse_args(argv)
    from utils.checkpoint import read_checkpoint  # not above: wrong flags are answered at once

    check_checkpoint("ckpt_path", args.ckpt_path)
    run_dir = new_run_dir(args.log_dir, "table")
    if args.ckpt_path is None:
        demo.write_places(args, run_dir)
        demo.pretrain(args, run_dir)
    checkpoint = args.ckpt_path or demo.checkpoint_of(run_dir)
    seed = args.seed + 1000  # another part of the world
    write_eurosat(run_dir / "eurosat", images_per_class=args.images_per_class, seed=seed)
    write_bigearthnet(run_dir / "bigearthnet", num_patches=args.num_patches, seed=seed)
    write_oscd(run_dir / "oscd", num_cities=args.num_cities, size=240, seed=seed)
    base_encoder = read_checkpoint(checkpoint)["hyper_parameters"]["base_encoder"]
    of_encoder = {
        "random": ["--base_encoder", base_encoder],
        "pretrain": ["--ckpt_path", checkpoint],
    }
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for name, metric, own_flags in TRIALS:
        print(f"== {name}")
        table[name] = {}
        folder, script = SCRIPTS[name.partition(",")[0]]
        for encoder in ENCODERS:
            flags = ["--data_dir", run_dir / folder, "--log_dir", run_dir, "--seed", args.seed]
            flags += ["--backbone_type", encoder]
            flags += of_encoder[encoder]
            began, cpu_began = time.perf_counter(), time.process_time()
            found = script([*COMMON.split(), *own_flags.split(), *map(str, flags)])
            spread = {key: found[f"{metric}_{key}"] for key in ("std", "per_seed")}
            seconds = {
                "seconds": round(time.perf_counter() - began, 1),
                "cpu_seconds": round(time.process_time() - cpu_began, 1),
            }
            table[name][encoder] = {"metric": metric, "mean": found[metric]} | spread | seconds
    print_table(table)
    plot_table(run_dir / "table.png", table)
    print(f"picture: {run_dir / 'table.png'}")
    write_results(run_dir / "results.json", args, table, started, checkpoint)
    return table


def print_table(table: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print the table in Markdown, as in docs/evaluation.md."""
    print("\n| miniature Earth | metric | random | pre-trained |\n|---|---|---|---|")
    for name, row in table.items():
        cells = [
            f"{cell['mean']:.1f}" + ("" if cell["std"] is None else f" ± {cell['std']:.1f}")
            for cell in row.values()
        ]
        print(f"| {name} | `{row['random']['metric']}` | {' | '.join(cells)} |")


def plot_table(path: Path, table: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Draw the table as pairs of bars.

    Args:
        path: File to write.
        table: Mean and deviation in percent by row and encoder.
    """
    from matplotlib.figure import Figure  # not above: --help and wrong flags are answered at once

    from utils.plots import save_figure

    figure = Figure(figsize=(9, 1 + 0.6 * len(table)), layout="constrained")
    axes = figure.add_subplot()
    for encoder, color, shift in zip(ENCODERS, ("tab:grey", "tab:green"), (-0.2, 0.2), strict=True):
        rows = [row + shift for row in range(len(table))]
        cells = [row[encoder] for row in table.values()]
        spreads = [cell["std"] or 0.0 for cell in cells]
        means = [cell["mean"] for cell in cells]
        bars = axes.barh(rows, means, 0.38, xerr=spreads, color=color, label=encoder)
        axes.bar_label(bars, fmt="%.1f", padding=6)
    axes.set_yticks(range(len(table)), list(table))
    axes.set(xlim=(0, 110), xlabel="percent", title="the miniature Earth, seed 0")
    axes.invert_yaxis()
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(main)
