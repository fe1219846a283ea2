"""Pack a SeCo folder or zip, or pictures, into a few large files that a training reads fast.

A SeCo folder, or its zip without unpacking it:
  python datasets/seco_packed.py --data_dir seco_100k.zip --save_path data/seco_100k_packed

Pictures, for --data_mode moco:
  python datasets/seco_packed.py --data_dir EuroSAT_RGB.zip --save_path data/eurosat_packed

LitData chunks; copy them to a bucket, and stream them with --data_dir s3://BUCKET/PREFIX:
  python datasets/seco_packed.py --data_dir seco_100k.zip --save_path seco_100k --format litdata

An interrupted packing of a store resumes when the same command runs again. Compare a store with its
hashes, for example after copying it:
  python datasets/seco_packed.py --verify --save_path data/seco_100k_packed
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import math
import time
from argparse import Namespace
from collections.abc import Sequence

from datasets.bands import RGB_BANDS
from utils.cli import crop_for, print_next, run, sizes_for
from utils.cores import available_cores
from utils.errors import UserError
from utils.files import address, check_can_write, check_exists
from utils.flags import Parser, check_not_negative

# Modules that take long to import are imported by the functions that use them, after the flags are
# checked.


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, help="SeCo folder or zip, or folder or zip of pictures.")
    add("--save_path", type=Path, required=True, help="Folder of the store.")
    bands = "Bands of SeCo patches to pack."
    add("--bands", nargs="+", metavar="BAND", default=list(RGB_BANDS), help=bands)
    formats = "Store for this machine, or chunks to stream."
    add("--format", choices=["raw", "litdata"], default="raw", help=formats)
    add("--num_workers", type=int, default=min(8, available_cores()), help="Processes to use.")
    add("--verify", action="store_true", help="Only compare a store with its hashes.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Pack or verify."""
    args = parse_args(argv)
    check_not_negative(args, "num_workers")
    if args.verify:
        verify_packed(args)
        return
    check_paths(args)
    from datasets.seco.patches import SecoPatches
    from datasets.seco.pictures import Pictures
    from datasets.store.open import open_patches

    started = time.perf_counter()
    source = open_patches(args.data_dir, args.bands)
    if not isinstance(source, SecoPatches | Pictures):
        raise UserError(f"{args.data_dir} is packed already: --data_dir takes its source")
    if args.format == "litdata":
        from datasets.store.litdata import MANIFEST_NAME
        from datasets.store.litdata_writer import write_litdata

        num_flawed = len(write_litdata(source, args.save_path, args.num_workers).bad)
    else:
        from datasets.store.manifest import MANIFEST_NAME
        from datasets.store.writer import pack

        flaws = pack(source, args.save_path, args.num_workers).flaws
        num_flawed = len({flaw.patch for flaw in flaws})
    _, height, width = source.patch_shape
    num_patches, num_places = int(source.starts[-1]), len(source.starts) - 1
    print(
        f"packed in {time.perf_counter() - started:.0f} s: {num_patches} patches of {num_places} "
        f"places, {' '.join(source.bands)}, {height} x {width} px, "
        f"{num_patches * math.prod(source.patch_shape) / 1e9:.2f} GB"
        f"{f', {num_flawed} flawed patches listed in {MANIFEST_NAME}' * (num_flawed > 0)}"
    )
    print(f"{'chunks' if args.format == 'litdata' else 'store'}: {args.save_path}")
    flags: list[object] = ["--data_mode", "moco"] if isinstance(source, Pictures) else []
    flags += sizes_for(num_places)
    flags += crop_for(min(height, width))
    print_next("main_pretrain.py", "--data_dir", args.save_path, *flags)


def check_paths(args: Namespace) -> None:
    """Refuse paths that cannot be packed from or to."""
    if args.data_dir is None:
        raise UserError("--data_dir is missing: the folder or zip to pack")
    if "://" in address(args.save_path):
        raise UserError(
            f"--save_path {address(args.save_path)} is not a local folder: write to one, and copy "
            "it"
        )
    check_exists("data_dir", args.data_dir)
    check_can_write("save_path", args.save_path, is_folder=True)
    if args.save_path.resolve().is_relative_to(args.data_dir.resolve()):
        raise UserError(f"--save_path {args.save_path} is in --data_dir: choose one next to it")


def verify_packed(args: Namespace) -> None:
    """Compare a store with the hashes in its manifest.

    Raises:
        UserError: A file differs, or the flags are for another format.
    """
    if args.format != "raw":
        raise UserError("--verify is for packed stores, which --format litdata does not write")
    check_exists("save_path", args.save_path)
    from datasets.store.rows import verify_store

    manifest = verify_store(args.save_path, args.num_workers)
    size = sum(manifest.num_patches * manifest.row_bytes(group) for group in manifest.groups)
    print(
        f"verified: {manifest.num_patches} patches of {len(manifest.places)} places, "
        f"{' '.join(manifest.bands)}, {size / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    run(main, resumes=True)
