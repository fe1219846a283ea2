"""The whole project in a few minutes, without data, network or GPU: ``make demo``.

Writes a miniature Earth, packs it, pre-trains a slim ResNet-18 on its unlabelled seasons with
Seasonal Contrast, and compares the encoder with the random one that the pre-training started from,
on the miniature Earth's EuroSAT: same probe, same fixed test split, all labels and ten per class.
The size fits two cores with AVX2 and 32-bit floats. The hyper-parameters were chosen by
measurement, on other seeds, see docs/training.md.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import main_eurosat
import main_pretrain
import main_report
from datasets.bands import RGB_BANDS
from datasets.mini_earth import write_eurosat, write_seco
from datasets.seco.data_modes import DATA_MODES
from utils.cli import run
from utils.flags import Parser
from utils.report import new_run_dir, write_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pytorch_lightning import Trainer

NUM_PLACES, NUM_DATES, PATCH_SIZE = 1000, 5, 64
IMAGES_PER_CLASS = 200  # 120 to train, 40 for validation, 40 to test
TRAIN_SHARE = 0.6
FEW_LABELS = 10  # per class
NUM_DRAWS = 5  # of the few labels, and of the start of each probe
LABELS = {"all": "all labels", FEW_LABELS: f"{FEW_LABELS} per class"}
ENCODERS = {"random": "random, as at the start", "pretrain": "after Seasonal Contrast"}
# A quarter of the channels: 14 times the samples of a ResNet-18 in the same time on a CPU.
ENCODER = "resnet18_slim"
PRETRAIN_FLAGS = (
    *("--data_mode", "seco", "--base_encoder", ENCODER, "--gpus", "0"),
    *("--crop_size", "48", "--crop_scale", "0.3", "1", "--rotate", "--blur_prob", "0"),
    # The seasons change colours already, so little is added.
    *("--color_jitter", "0.3", "0.3", "0.2", "0", "--grayscale_prob", "0"),
    # The queue is shorter than the world: a place must not meet its own key of the last epoch.
    *("--batch_size", "64", "--num_negatives", "256"),
    *("--max_epochs", "60", "--lr_schedule", "cosine", "--warmup_epochs", "0.5"),
    *("--learning_rate", "0.05", "--encoder_momentum", "0.99", "--softmax_temperature", "0.2"),
    *("--log_every_n_steps", "5"),
)


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--log_dir", type=Path, default=Path("logs"), help="where to write")
    add("--seed", type=int, default=0, help="seed of world, training and probes")
    add("--num_places", type=int, default=NUM_PLACES, help="places to train on")
    add("--images_per_class", type=int, default=IMAGES_PER_CLASS, help="to probe")
    add("--max_epochs", type=int, help="of the pre-training, if not the usual")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the demo and return the accuracies."""
    started = time.perf_counter()
    args = parse_args(argv)
    run_dir = new_run_dir(args.log_dir, "demo")
    seconds: dict[str, float] = {}
    with announced("1/4 a miniature Earth", seconds):
        write_places(args, run_dir)
        # Another seed is another part of the world: no place is in both. Reflectance, as in
        # EuroSAT's archive of 13 bands: its pictures are brighter than what the encoder was
        # trained on, which costs it two to three points.
        number, seed = args.images_per_class, args.seed + 1000
        write_eurosat(run_dir / "eurosat", images_per_class=number, seed=seed, all_bands=True)
    with announced("2/4 pre-training without labels", seconds):
        trainer = pretrain(args, run_dir)
    with announced("3/4 linear probes on a frozen encoder", seconds):
        metrics: dict[str, Any] = {}
        for backbone in ENCODERS:
            metrics |= probe(args, run_dir, backbone)
    with announced("4/4 what each space calls similar", seconds):
        folder = checkpoint_of(run_dir).parents[1]
        main_report.main([str(folder), "--data_dir", str(run_dir / "seco_packed")])
    print_table(metrics)
    _plot_demo(run_dir / "demo.png", trainer, metrics)
    print(f"picture: {run_dir / 'demo.png'}")
    metrics["seconds"] = seconds
    write_results(run_dir / "results.json", args, metrics, started, checkpoint_of(run_dir))
    return metrics


@contextmanager
def announced(title: str, seconds: dict[str, float]) -> Iterator[None]:
    """Print a step, and afterwards the time that it took.

    Args:
        title: Name of the step.
        seconds: Seconds of each step by name, to which this one is added.
    """
    print(title)
    started = time.perf_counter()
    yield
    seconds[title] = round(time.perf_counter() - started, 1)
    print(f"    {seconds[title]:.0f} s")


def write_places(args: Namespace, run_dir: Path) -> None:
    """Write the places to train on, and pack them: nine small files per sample are slow to read.

    Args:
        args: Flags of the demo.
        run_dir: Folder of the demo's files.
    """
    from datasets.seco.patches import SecoPatches
    from datasets.store.writer import pack

    world = {"num_places": args.num_places, "num_dates": NUM_DATES, "size": PATCH_SIZE}
    write_seco(run_dir / "seco", seed=args.seed, bands=RGB_BANDS, **world)
    num_workers = min(2, args.num_places // 100)  # a process takes seconds to start
    pack(SecoPatches(run_dir / "seco"), run_dir / "seco_packed", num_workers)


def pretrain(args: Namespace, run_dir: Path) -> Trainer:
    """Run main_pretrain.py on the places, and return its trainer.

    Arguments as in ``write_places``.
    """
    flags = ["--data_dir", run_dir / "seco_packed", "--log_dir", run_dir, "--seed", args.seed]
    if args.max_epochs is not None:
        flags += ["--max_epochs", args.max_epochs]
    return main_pretrain.main([*PRETRAIN_FLAGS, *map(str, flags)])


def checkpoint_of(run_dir: Path) -> Path:
    """Return the checkpoint that ``pretrain`` wrote."""
    return run_dir / f"pretrain-seco-{ENCODER}" / "version_0" / "checkpoints" / "last.ckpt"


def probe(args: Namespace, run_dir: Path, backbone: str) -> dict[str, dict[str, Any]]:
    """Run main_eurosat.py with few and with all labels.

    Args:
        args: Flags of the demo.
        run_dir: Folder of the demo's files.
        backbone: "random" or "pretrain".

    Returns:
        Under "<backbone>/10" and "<backbone>/all" the test accuracy in percent: mean, deviation and
        95 % interval.
    """
    few = FEW_LABELS / (TRAIN_SHARE * args.images_per_class)
    flags = ["--data_dir", run_dir / "eurosat", "--log_dir", run_dir, "--seed", args.seed]
    flags += ["--backbone_type", backbone, "--bands", *RGB_BANDS]
    flags += ["--gpus", 0, "--train_frac", few, 1, "--num_seeds", NUM_DRAWS]
    of_encoder = {"random": ["--base_encoder", ENCODER]}
    flags += of_encoder.get(backbone, ["--ckpt_path", checkpoint_of(run_dir)])
    shares = main_eurosat.main([str(flag) for flag in flags])["by_method"]["linear"]
    found = {FEW_LABELS: shares[f"{few:g}"], "all": shares["1"]}
    return {
        f"{backbone}/{labels}": {
            "test": share["test/accuracy"],
            "std": share["test/accuracy_std"],
            "interval": share["test/accuracy_interval"],
            "num_labels": share["num_labelled"],
        }
        for labels, share in found.items()
    }


def print_table(metrics: dict[str, Any]) -> None:
    """Print test accuracies, one row per encoder."""
    title = "EuroSAT of the mini Earth, test"
    print(f"\n{title:34s}" + "".join(f"{label:>16s}" for label in LABELS.values()))
    for backbone, name in ENCODERS.items():
        cells = [metrics[f"{backbone}/{labels}"] for labels in LABELS]
        print(f"{name:34s}" + "".join(f"{c['test']:8.1f} +- {c['std']:3.1f} %" for c in cells))
    gains = [metrics[f"pretrain/{n}"]["test"] - metrics[f"random/{n}"]["test"] for n in LABELS]
    print(f"{'gain in points':34s}" + "".join(f"{gain:+8.1f}        " for gain in gains) + "\n")


def _plot_demo(path: Path, trainer: Trainer, metrics: dict[str, Any]) -> None:
    """Draw views, curves and accuracies, as ``probe`` returns them, in one picture."""
    from matplotlib.figure import Figure  # not above: --help and wrong flags are answered at once

    from models.pretrain_run import PretrainPictures
    from utils.plots import draw_curves, draw_views, read_curves, save_figure

    figure = Figure(figsize=(12, 11.5), layout="constrained")
    parts = figure.subfigures(3, 1, squeeze=False, height_ratios=[6.3, 3.1, 2.1]).flat
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    picture = next(each for each in callbacks if isinstance(each, PretrainPictures))
    assert picture.shown is not None
    draw_views(parts[0], picture.shown)
    spaces = DATA_MODES["seco"].space_names
    draw_curves(parts[1], read_curves(picture.folder / "metrics.csv", spaces))
    _draw_accuracies(parts[2].subplots(), metrics)
    save_figure(figure, path)


def _draw_accuracies(axes: Axes, metrics: dict[str, Any]) -> None:
    """Draw one row per number of labels: a dot and its 95 % interval for each encoder."""
    colors, shifts = ("0.45", "tab:green"), (-0.17, 0.17)
    for (backbone, name), color, shift in zip(ENCODERS.items(), colors, shifts, strict=True):
        cells = [metrics[f"{backbone}/{labels}"] for labels in LABELS]
        means, rows = [cell["test"] for cell in cells], [row + shift for row in range(len(cells))]
        ends = [[abs(cell["interval"][end] - cell["test"]) for cell in cells] for end in (0, 1)]
        axes.errorbar(means, rows, xerr=ends, fmt="o", color=color, label=name)
        style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": color}
        for cell, row in zip(cells, rows, strict=True):
            axes.annotate(f"{cell['test']:.1f}", (cell["interval"][1], row), (8, 0), **style)
    axes.set_yticks(range(len(LABELS)), list(LABELS.values()))
    axes.set(ylim=(1.5, -0.5), title="test accuracy on the miniature EuroSAT, %, 95 % intervals")
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


if __name__ == "__main__":
    run(main)
