"""Command-line flags of the views, and their translation to an ``AugmentConfig``."""

import math
from argparse import BooleanOptionalAction, Namespace

from utils.augment_config import AugmentConfig
from utils.errors import UserError
from utils.flags import Parser, check_positive


def add_view_args(parser: Parser) -> None:
    """Add the flags of crop, colours, blur and rotation."""
    views = AugmentConfig()
    add = parser.group("views").add_argument
    add(
        "--crop_size",
        type=int,
        default=views.crop_size,
        help="Pixels along one side of a view.",
    )
    add(
        "--crop_scale",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        default=views.crop_scale,
        help="Smallest and largest share of the patch's area that a crop covers, in 0..1.",
    )
    add(
        "--color_jitter",
        type=float,
        nargs=4,
        metavar=("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"),
        default=views.color_jitter,
        help="Strength s of the colour jitter: the first three are factors in 1 - s .. 1 + s, the "
        "hue is shifted by up to s turns, at most 0.5.",
    )
    add(
        "--jitter_prob",
        type=float,
        default=views.jitter_prob,
        help="Probability in 0..1 that the colours of a view are jittered.",
    )
    add(
        "--grayscale_prob",
        type=float,
        default=views.grayscale_prob,
        help="Probability in 0..1 that a view is grey.",
    )
    add(
        "--blur_prob",
        type=float,
        default=views.blur_prob,
        help="Probability in 0..1 that a view is blurred.",
    )
    add(
        "--rotate",
        action=BooleanOptionalAction,
        default=views.rotate,
        help="Flip views vertically and transpose them, too, for imagery without an up.",
    )


def check_view_flags(args: Namespace) -> None:
    """Refuse values that describe no view."""
    check_positive(args, "crop_size")
    low, high = args.crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"--crop_scale needs 0 < MIN <= MAX <= 1, not {low} {high}")
    if not all(0 <= s < math.inf for s in args.color_jitter) or args.color_jitter[3] > 0.5:
        raise UserError("--color_jitter needs four strengths from 0 on, the last (hue) up to 0.5")
    for name in ("jitter_prob", "grayscale_prob", "blur_prob"):
        if not 0 <= getattr(args, name) <= 1:
            raise UserError(f"--{name} is a probability, not {getattr(args, name)}")


def augment_config(args: Namespace) -> AugmentConfig:
    """Collect the flags; the paper's protocol rounds as the 8-bit pictures of the original did."""
    return AugmentConfig(
        crop_size=args.crop_size,
        crop_scale=tuple(args.crop_scale),
        color_jitter=tuple(args.color_jitter),
        jitter_prob=args.jitter_prob,
        grayscale_prob=args.grayscale_prob,
        blur_prob=args.blur_prob,
        rotate=args.rotate,
        round_to_uint8=args.protocol == "paper",
    )
