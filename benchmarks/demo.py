"""The whole project in a few minutes, without data, network or GPU: ``make demo``.

Writes a miniature Earth, pre-trains a ResNet-18 on its unlabelled seasons with Seasonal Contrast,
and compares the encoder with the one that the pre-training started from, on the miniature Earth's
EuroSAT: same probe, same fixed test split, all labels and ten per class. The hyper-parameters were
chosen by measurement, see docs/training.md.
"""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.image import imread

import main_eurosat
import main_pretrain
from datasets.mini_earth import write_eurosat, write_seco
from utils.cli import HelpFormatter, run
from utils.plots import save_figure
from utils.report import new_run_dir, write_results

NUM_PLACES, NUM_DATES, PATCH_SIZE = 1000, 5, 64
IMAGES_PER_CLASS = 300  # 180 to train, 60 for validation, 60 to test
FEW_LABELS = 10
PRETRAIN_FLAGS = (
    *("--data_mode", "seco", "--base_encoder", "resnet18"),
    *("--crop_size", "48", "--crop_scale", "0.3", "1", "--rotate", "--blur_prob", "0"),
    # The queue is shorter than the world: a place must not meet its own key of the last epoch.
    *("--batch_size", "32", "--num_negatives", "256"),
    *("--max_epochs", "30", "--lr_schedule", "cosine", "--warmup_epochs", "0.5"),
    *("--learning_rate", "0.05", "--encoder_momentum", "0.99", "--softmax_temperature", "0.2"),
    *("--num_workers", "1", "--log_every_n_steps", "10"),
)


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--log_dir", type=Path, default=Path("logs"), help="where to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of world, training and probes")
    parser.add_argument("--num_places", type=int, default=NUM_PLACES, help="places to train on")
    parser.add_argument("--images_per_class", type=int, default=IMAGES_PER_CLASS, help="to probe")
    parser.add_argument("--max_epochs", type=int, help="of the pre-training, if not the usual")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the demo and return the accuracies."""
    started = time.perf_counter()
    args = parse_args(argv)
    run_dir = new_run_dir(args.log_dir, "demo")
    print("1/3 a miniature Earth")
    write_seco(
        run_dir / "seco",
        num_places=args.num_places,
        num_dates=NUM_DATES,
        size=PATCH_SIZE,
        seed=args.seed,
        bands=("B4", "B3", "B2"),
    )
    # Another seed is another part of the world: no place is in both.
    write_eurosat(
        run_dir / "eurosat", images_per_class=args.images_per_class, seed=args.seed + 1000
    )
    print("2/3 pre-training without labels")
    checkpoint = pretrain(args, run_dir)
    print("3/3 linear probes on a frozen encoder")
    metrics: dict[str, Any] = {
        f"{backbone}/{labels or 'all'}": probe(args, run_dir, checkpoint, backbone, labels)
        for labels in (None, FEW_LABELS)
        for backbone in ("random", "pretrain")
    }
    print_table(metrics)
    plot_demo(run_dir / "demo.png", checkpoint.parents[1], metrics)
    print(f"picture: {run_dir / 'demo.png'}")
    write_results(run_dir / "results.json", args, metrics, started, checkpoint)
    return metrics


def pretrain(args: Namespace, run_dir: Path) -> Path:
    """Run main_pretrain.py and return its checkpoint."""
    flags = ["--data_dir", run_dir / "seco", "--log_dir", run_dir, "--seed", args.seed]
    if args.max_epochs is not None:
        flags += ["--max_epochs", args.max_epochs]
    main_pretrain.main([*PRETRAIN_FLAGS, *map(str, flags)])
    return run_dir / "pretrain-seco-resnet18" / "version_0" / "checkpoints" / "last.ckpt"


def probe(
    args: Namespace, run_dir: Path, checkpoint: Path, backbone: str, labels: int | None
) -> dict[str, float]:
    """Run main_eurosat.py and return mean and deviation of its test accuracy, in percent."""
    flags = ["--data_dir", run_dir / "eurosat", "--log_dir", run_dir, "--seed", args.seed]
    flags += ["--backbone_type", backbone]
    if backbone == "pretrain":
        flags += ["--ckpt_path", checkpoint]
    if labels is not None:
        flags += ["--labels_per_class", labels]
    metrics = main_eurosat.main([str(flag) for flag in flags])
    return {"test": metrics["test/accuracy"], "std": metrics["test/accuracy_std"]}


def print_table(metrics: dict[str, Any]) -> None:
    """Print test accuracies, one row per encoder."""
    columns = ("all", str(FEW_LABELS))
    print(f"\n{'EuroSAT of the mini Earth, test':34s}{'all labels':>16s}{'10 per class':>16s}")
    names = {"random": "random ResNet-18, as at the start", "pretrain": "after Seasonal Contrast"}
    for backbone, name in names.items():
        cells = [metrics[f"{backbone}/{column}"] for column in columns]
        print(f"{name:34s}" + "".join(f"{c['test']:8.1f} +- {c['std']:3.1f} %" for c in cells))
    gains = [metrics[f"pretrain/{c}"]["test"] - metrics[f"random/{c}"]["test"] for c in columns]
    print(f"{'gain in points':34s}" + "".join(f"{gain:+8.1f}        " for gain in gains) + "\n")


def plot_demo(path: Path, pretrain_dir: Path, metrics: dict[str, Any]) -> None:
    """Draw views, curves and accuracies in one picture."""
    figure = Figure(figsize=(14, 12), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, height_ratios=[6, 4, 3])
    for axes, name in ((top, "views.png"), (middle, "curves.png")):
        axes.imshow(imread(pretrain_dir / name))
        axes.axis("off")
    names = list(metrics)
    heights, errors = ([metrics[name][key] for name in names] for key in ("test", "std"))
    colors = ["tab:green" if name.startswith("pretrain") else "tab:grey" for name in names]
    bars = bottom.barh(names, heights, xerr=errors, color=colors)
    bottom.bar_label(bars, fmt="%.1f %%", padding=8)
    bottom.set(xlim=(0, 110), xlabel="test accuracy in percent", title="encoder / labels per class")
    bottom.invert_yaxis()
    save_figure(figure, path)


if __name__ == "__main__":
    run(main)
