"""Command-line flags of main_embed.py, and their checks; imports no torch."""

from argparse import Namespace
from pathlib import Path

from models.evaluation_args import add_encoder_args, check_encoder_source
from utils.cli import GPUS_HELP, PRECISION_HELP
from utils.config_file import CONFIG_HELP
from utils.cores import available_cores
from utils.errors import UserError
from utils.files import check_can_write, check_checkpoint, check_exists
from utils.flags import LARGEST_SIDE, Parser, check_fraction, check_not_negative, check_positive
from utils.launch import add_launch_args
from utils.precision import PRECISIONS

WINDOW_PX = 64  # side of a window, if --patch_size is not given; EuroSAT's
SUFFIXES = (".parquet", ".npz", ".tif")
_SMALLEST_PX = 32  # of a patch: one pixel of the coarsest level of a ResNet


def embed_parser(description: str | None) -> Parser:
    """Create the parser of the script.

    Args:
        description: Docstring of the script.
    """
    parser = Parser(description)
    parser.usage = "%(prog)s --data_dir DATA --save_path FILE [flags]"
    _add_data_args(parser)
    add_encoder_args(parser)
    add = parser.group("output").add_argument
    add("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    file = "File to write: .parquet (GeoParquet), .npz, or .tif for a raster."
    add("--save_path", type=Path, required=True, metavar="FILE", help=file)
    add("--dtype", choices=["float32", "float16"], default="float32", help="Type of the features.")
    text = "Bands of a .tif by principal component analysis, 3 for a picture (default: all)."
    add("--components", type=int, help=text)
    add("--seed", type=int, default=42, help="Seed of the weights of --backbone_type random.")
    add = parser.group("neighbours").add_argument
    text = "Query: a picture, a row of the file, or a place LATITUDE,LONGITUDE."
    add("--neighbours", metavar="QUERY", help=text)
    add("--num_neighbours", type=int, default=10, help="Patches to find.")
    add = parser.group("devices").add_argument
    add("--batch_size", type=int, default=128, help="Patches per step.")
    add("--num_workers", type=int, default=min(8, available_cores()), help="Threads that read.")
    add("--gpus", type=int, help=GPUS_HELP)
    add("--precision", choices=["auto", *PRECISIONS], default="auto", help=PRECISION_HELP)
    add_launch_args(parser)
    return parser


def _add_data_args(parser: Parser) -> None:
    add = parser.group("data").add_argument
    text = "Raster or folder of them, SeCo, EuroSAT, BigEarthNet, OSCD, or pictures; see docs."
    add("--data_dir", type=Path, required=True, help=text)
    text = f"Side of a patch in pixels (default: {WINDOW_PX} for windows, else as stored)."
    add("--patch_size", type=int, help=text)
    add("--stride", type=int, help="Pixels between windows (default: --patch_size).")
    text = "Pixels of a patch per pixel of the raster; below 1 averages (default: 1)."
    add("--scale", type=float, help=text)
    text = "Names of the bands in the order of the file, if the file has none."
    add("--raster_bands", nargs="+", metavar="BAND", help=text)
    text = "Largest share of pixels without data in a window, in 0..1."
    add("--max_nodata", type=float, default=0.0, help=text)
    add("--image_list", type=Path, help="File with a name of a picture per line: only these.")
    text = "Stop at a damaged or empty patch, or leave it out."
    add("--on_bad_patch", choices=["raise", "skip"], default="raise", help=text)


def check_embed_flags(args: Namespace) -> None:
    """Refuse values that cannot work, before anything is read."""
    check_exists("data_dir", args.data_dir)
    check_encoder_source(args.backbone_type, args.ckpt_path, args.bands)
    check_checkpoint("ckpt_path", args.ckpt_path)
    check_exists("image_list", args.image_list)
    check_positive(args, "patch_size", "stride", below=LARGEST_SIDE)
    check_positive(args, "scale", "components", "num_neighbours", "batch_size")
    check_not_negative(args, "num_workers", "gpus", "seed")
    check_fraction("max_nodata", args.max_nodata, or_zero=True)
    if args.patch_size is not None and args.patch_size < _SMALLEST_PX:
        raise UserError(f"--patch_size must be {_SMALLEST_PX} or more, not {args.patch_size}")
    suffix = args.save_path.suffix
    if suffix not in SUFFIXES:
        raise UserError(f"--save_path {args.save_path} must end in {', '.join(SUFFIXES)}")
    if not args.save_path.exists():
        check_can_write("save_path", args.save_path, is_folder=False)
    if args.components is not None and suffix != ".tif":
        raise UserError("--components is for a .tif: leave it out")
    if args.neighbours is not None and suffix != ".parquet":
        raise UserError(f"--neighbours needs a .parquet, not {args.save_path}")
