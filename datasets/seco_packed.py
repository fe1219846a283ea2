"""Pack a SeCo folder or zip, or pictures, into a few large files that a training reads at once.

A SeCo folder, or its zip without unpacking it:
  python datasets/seco_packed.py --data_dir seco_100k.zip --save_path datasets/seco_100k_packed

Pictures, for --data_mode moco:
  python datasets/seco_packed.py --data_dir EuroSAT_RGB.zip --save_path datasets/eurosat_packed

Chunks for LitData, to be copied to a bucket that --data_dir s3://BUCKET/PREFIX then streams from:
  python datasets/seco_packed.py --data_dir seco_100k.zip --save_path seco_100k --format litdata

An interrupted packing of a store goes on when the same command runs again. Check a store, after
copying it:
  python datasets/seco_packed.py --verify --save_path datasets/seco_100k_packed
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
from typing import TYPE_CHECKING

from datasets.bands import RGB_BANDS
from utils.cli import print_next, run
from utils.cores import available_cores
from utils.errors import UserError
from utils.files import address, check_can_write, check_exists
from utils.flags import Parser, check_not_negative

# What takes long to import is imported by the functions that use it, after the flags are checked.
if TYPE_CHECKING:
    from datasets.store.litdata_manifest import PlacesManifest
    from datasets.store.manifest import Manifest

SMALL = 256  # places: the batch of main_pretrain.py by default


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, help="SeCo folder or zip, or folder or zip of pictures.")
    add("--save_path", type=Path, required=True, help="Folder of the store.")
    add(
        "--bands",
        nargs="+",
        metavar="BAND",
        default=list(RGB_BANDS),
        help="Bands of SeCo patches to pack.",
    )
    add(
        "--format",
        choices=["raw", "litdata"],
        default="raw",
        help="Store for this machine, or chunks to stream.",
    )
    add("--num_workers", type=int, default=min(8, available_cores()), help="Processes to use.")
    add("--verify", action="store_true", help="Only compare a store with its hashes.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Pack or verify."""
    args = parse_args(argv)
    check_not_negative(args, "num_workers")
    started = time.perf_counter()
    if args.verify:
        if args.format != "raw":
            raise UserError("--verify is for packed stores, which --format litdata does not write")
        check_exists("save_path", args.save_path)
        from datasets.store.writer import verify_store

        manifest = verify_store(args.save_path, args.num_workers)
        print(f"verified: {describe_store(manifest)}")
        return
    if args.data_dir is None:
        raise UserError("--data_dir is missing: the folder or zip to pack")
    if "://" in address(args.save_path):
        raise UserError(
            f"--save_path {address(args.save_path)} is no local folder: write to one, and copy it"
        )
    check_exists("data_dir", args.data_dir)
    check_can_write("save_path", args.save_path, is_folder=True)
    from datasets.seco.patches import SecoPatches
    from datasets.seco.pictures import Pictures
    from datasets.store.litdata_manifest import is_litdata
    from datasets.store.open import open_patches
    from datasets.store.reader import PackedStore

    if is_litdata(args.data_dir):
        raise UserError(f"{args.data_dir} is in chunks already: --data_dir takes its source")
    source = open_patches(args.data_dir, args.bands)
    if args.save_path.resolve().is_relative_to(args.data_dir.resolve()):
        raise UserError(f"--save_path {args.save_path} lies in --data_dir: choose one beside it")
    if args.format == "litdata":
        from datasets.store.litdata import write_litdata

        packed = describe_places(write_litdata(source, args.save_path, args.num_workers))
    elif isinstance(source, PackedStore):
        raise UserError(f"{args.data_dir} is packed already: --data_dir takes its source")
    else:
        from datasets.store.writer import pack

        assert isinstance(source, SecoPatches | Pictures)  # chunks are refused above
        packed = describe_store(pack(source, args.save_path, args.num_workers))
    print(f"packed in {time.perf_counter() - started:.0f} s: {packed}")
    print(f"{'chunks' if args.format == 'litdata' else 'store'}: {args.save_path}")
    num_places = len(source.starts) - 1
    is_small = num_places < SMALL  # too few for the default batch
    flags = ("--batch_size", min(32, num_places), "--num_negatives", 256) if is_small else ()
    print_next("main_pretrain.py", "--data_dir", args.save_path, *flags)


def describe_store(manifest: Manifest) -> str:
    """Tell in a line what a store holds."""
    from datasets.store.manifest import MANIFEST_NAME

    size = manifest.num_patches * sum(manifest.row_bytes(group) for group in manifest.groups)
    flawed = len({flaw.patch for flaw in manifest.flaws})
    return (
        f"{manifest.num_patches} patches of {len(manifest.places)} places, "
        f"{' '.join(manifest.bands)}, {manifest.height} x {manifest.width} px, {size / 1e9:.2f} GB"
        f"{f', {flawed} flawed patches listed in {MANIFEST_NAME}' * (flawed > 0)}"
    )


def describe_places(manifest: PlacesManifest) -> str:
    """Tell in a line what a set of chunks holds."""
    from datasets.store.litdata_manifest import MANIFEST_NAME

    bands, (_, height, width) = manifest.input_spec.bands, manifest.patch_shape
    num_patches, num_bad = int(manifest.starts[-1]), len(manifest.bad)
    return (
        f"{num_patches} patches of {len(manifest.starts) - 1} places, {' '.join(bands)}, "
        f"{height} x {width} px, {num_patches * math.prod(manifest.patch_shape) / 1e9:.2f} GB"
        f"{f', {num_bad} bad patches listed in {MANIFEST_NAME}' * (num_bad > 0)}"
    )


if __name__ == "__main__":
    run(main)
