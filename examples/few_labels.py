r"""Evaluate an encoder on EuroSAT with a few labels per class, next to a random one.

python -m examples.few_labels --data_dir EuroSAT_RGB.zip --ckpt_path last.ckpt

Three methods on the frozen features; each draws the labels five times. Prints mean, deviation and
95 % interval of the test accuracy.
"""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import main_eurosat
from utils.cli import run
from utils.flags import Parser

METHODS = ("linear", "lbfgs", "knn")


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", required=True, help="EuroSAT as folder or zip, or your own class folders.")
    add("--ckpt_path", required=True, help="Encoder.")
    add("--labels_per_class", default="10", help="Labelled training images of each class.")
    add("--log_dir", default="logs", help="Folder in which each evaluation gets its own.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Evaluate both encoders, and return their metrics by method."""
    args = parse_args(argv)
    shared = ["--data_dir", args.data_dir, "--log_dir", args.log_dir, "--method", *METHODS]
    shared += ["--labels_per_class", args.labels_per_class, "--num_seeds", "5", "--no_report"]
    ours = main_eurosat.main(
        [*shared, "--backbone_type", "pretrain", "--ckpt_path", args.ckpt_path]
    )
    encoder = ["--base_encoder", ours["encoder"]["base_encoder"]]
    random = main_eurosat.main([*shared, "--backbone_type", "random", *encoder])

    from models.result_views import print_table

    results = {"random": random["by_method"], "pre-trained": ours["by_method"]}
    rows = [
        ({"encoder": name, "method": method}, shares["1"])
        for name, methods in results.items()
        for method, shares in methods.items()
    ]
    print()
    print_table(rows, ["test/accuracy"])
    return results


if __name__ == "__main__":
    run(main)
