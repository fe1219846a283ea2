"""Count what one training step moves on a GPU, without a GPU: ``python -m benchmarks.traffic``.

The views take the path of a GPU, and nothing is computed, see ``benchmarks/roofline.py``.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.seco.data_modes import DATA_MODES
from utils.cli import run
from utils.flags import Parser, check_positive
from utils.report import write_json

# GB/s; data sheets of NVIDIA H200 SXM (4.8 TB/s), H100 SXM5 (3.35) and A100-80 SXM (2.04).
BANDWIDTHS = {"H200": 4800.0, "H100": 3350.0, "A100": 2039.0}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the table, and return it."""
    args = parse_args(argv)
    from benchmarks.roofline import Traffic, count_network, count_views

    views, network = Traffic(), Traffic()
    sizes, bands = (args.batch_size, args.crop_size), {"num_bands": args.num_bands}
    count_views(views, *sizes, args.data_mode, **bands)
    count_network(network, *sizes, args.base_encoder, **bands)
    parts = {
        part: {"GB": bytes_ / 1e9, "kernels": traffic.kernels[part]}
        for traffic in (views, network)
        for part, bytes_ in traffic.bytes.items()
    }
    what = f"{args.base_encoder}, {args.num_bands} bands, batch {args.batch_size}"
    print(f"{what}, {args.crop_size} px: counted, not measured")
    print(f"{'part':18s}{'GB':>8s}{'kernels':>9s}" + "".join(f"{n:>9s}" for n in BANDWIDTHS))
    whole = {name: sum(row[name] for row in parts.values()) for name in ("GB", "kernels")}
    for part, row in [*parts.items(), ("whole step", whole)]:
        times = "".join(f"{1000 * row['GB'] / b:6.2f} ms" for b in BANDWIDTHS.values())
        print(f"{part:18s}{row['GB']:8.2f}{row['kernels']:9d}{times}")
    result = {"parts": parts, "GB/s": BANDWIDTHS}
    if args.json is not None:
        write_json(args.json, result)
    total, kernels = sum(views.bytes.values()) / 1e9, sum(views.kernels.values())
    print(f"augmentation: {total:.1f} GB in {kernels} kernels")
    return result


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--base_encoder", default="resnet18", help="Name of a torchvision ResNet.")
    add("--batch_size", type=int, default=256, help="Samples of a step.")
    add("--crop_size", type=int, default=224, help="Side of a view in pixels.")
    add("--num_bands", type=int, default=3, help="Bands of the patches.")
    add("--data_mode", choices=DATA_MODES, default="seco", help="Kind of samples.")
    add("--json", type=Path, help="File to write the table to.")
    args = parser.parse_args(argv)
    check_positive(args, "batch_size", "crop_size", "num_bands")
    return args


if __name__ == "__main__":
    run(main)
