"""Distribution of the views and its command-line flags; imports neither torch nor NumPy."""

import math
from argparse import BooleanOptionalAction, Namespace
from dataclasses import dataclass

from utils.errors import UserError
from utils.flags import Parser, check_positive


@dataclass(frozen=True)
class AugmentConfig:
    """Distribution of the views; the defaults are those of MoCo-v2 and SeCo.

    Attributes:
        crop_size: Height and width of a view in pixels.
        crop_scale: Range of the crop's share of the patch.
        color_jitter: Strength of brightness, contrast, saturation (factors in 1 - s .. 1 + s) and
            hue (turns in -s .. s, at most 0.5).
        jitter_prob: Probability of colour jitter.
        grayscale_prob: Probability of a grey picture.
        blur_prob: Probability of blur.
        blur_sigma: Range of its standard deviation in pixels.
        flip_prob: Probability of a horizontal flip.
        rotate: Also flip vertically and transpose, each with ``flip_prob``: all eight positions of
            a square, for imagery without an up.
        crop_first: Crop before colour and blur, as MoCo does, rather than after, as SeCo does.
        round_to_uint8: Round after each operation, as the 8-bit pictures of the original did.
    """

    crop_size: int = 224
    crop_scale: tuple[float, float] = (0.2, 1.0)
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_prob: float = 0.8
    grayscale_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    flip_prob: float = 0.5
    rotate: bool = False
    crop_first: bool = False
    round_to_uint8: bool = False


def add_view_args(parser: Parser) -> None:
    """Add the flags of crop, colours, blur and rotation."""
    views = AugmentConfig()
    add = parser.group("views").add_argument
    add("--crop_size", type=int, default=views.crop_size, help="Height and width of a view, px.")
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
    for name, change in (
        ("jitter_prob", "the colours of a view are jittered"),
        ("grayscale_prob", "a view is grey"),
        ("blur_prob", "a view is blurred"),
    ):
        help_text = f"Probability in 0..1 that {change}."
        add(f"--{name}", type=float, default=getattr(views, name), help=help_text)
    rotate = "Also flip views vertically and transpose them, for imagery without an up."
    add("--rotate", action=BooleanOptionalAction, default=views.rotate, help=rotate)


def check_view_flags(args: Namespace) -> None:
    """Refuse values that describe no view."""
    check_positive(args, "crop_size")
    low, high = args.crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"--crop_scale needs 0 < MIN <= MAX <= 1, not {low} {high}")
    if not all(0 <= s < math.inf for s in args.color_jitter) or args.color_jitter[3] > 0.5:
        raise UserError("--color_jitter needs four strengths from 0, the last one (hue) up to 0.5")
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
