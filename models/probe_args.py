"""Command-line flags of the methods by which an encoder is evaluated; imports nothing heavy."""

from argparse import Namespace
from collections.abc import Sequence

from utils.cli import base_parser, check_base_flags
from utils.encoder_args import add_encoder_args, add_feature_args, check_encoder_flags
from utils.errors import UserError
from utils.evaluation import add_evaluation_args, check_evaluation_flags, check_resume_flag
from utils.flags import Parser, check_positive
from utils.launch import add_launch_args
from utils.resume import with_flags_of_run

METHODS = {
    "linear": "a linear layer, trained by Adam on the frozen encoder",
    "lbfgs": "logistic regression, its strength chosen on val",
    "knn": "votes of the 5 and of the 20 nearest neighbours",
    "finetune": "training of the encoder with a linear layer",
}
NEIGHBOURS = (5, 20)
# Of the original's linear probes on BigEarthNet (its README) and EuroSAT (main_eurosat.py).
_LINEAR_RATE = 1e-3
# Flags that a resumed fine-tuning may set to other values, besides those of all runs.
_MAY_CHANGE = ("lmdb", "finetune_epochs", "feature_batch_size", "save_predictions")
_MIN_PATCH_SIZE = 32  # pixels: 32 of them are one of the coarsest level of the detector


def probe_parser(
    description: str | None,
    *,
    batch_size: int,
    learning_rate: float,
    method: str | None = None,
    finetune_epochs: int | None = None,
    finetune_learning_rate: float | None = None,
) -> Parser:
    """Create a parser with the flags that all evaluations by classification have.

    Args:
        description: Text above the flags, with example commands.
        batch_size: Default of ``--batch_size``.
        learning_rate: Default of ``--learning_rate``.
        method: Default of ``--method``; None for a script with ``--freeze_backbone``.
        finetune_epochs: Default of ``--finetune_epochs``; None for ``--max_epochs``.
        finetune_learning_rate: Default of its learning rate; None for ``--learning_rate``.
    """
    parser = base_parser(
        description, max_epochs=100, batch_size=batch_size, learning_rate=learning_rate
    )
    add_encoder_args(parser)
    add_feature_args(parser)
    add_evaluation_args(parser)
    add_launch_args(parser)
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in METHODS.items())
    default = "" if method else " (default: linear with --freeze_backbone, else finetune)"
    parser.group("evaluation").add_argument(
        "--method",
        choices=METHODS,
        nargs="+",
        default=[method] if method else None,
        help=f"Methods to evaluate the encoder by, the main one first{default}. {meanings}.",
    )
    add = parser.group("training").add_argument
    default = "" if finetune_epochs else " (default: --max_epochs)"
    text = f"Epochs of --method finetune{default}."
    add("--finetune_epochs", type=int, default=finetune_epochs, help=text)
    default = "" if finetune_learning_rate else " (default: --learning_rate)"
    text = f"Learning rate of --method finetune at the start{default}."
    add("--finetune_learning_rate", type=float, default=finetune_learning_rate, help=text)
    return parser


def parse_resumable(parser: Parser, argv: Sequence[str] | None) -> Namespace:
    """Parse the command line after the flags of the run that it resumes; resolve the method."""
    given = parser.parse_given(with_flags_of_run(parser, argv, _MAY_CHANGE))
    args = parser.with_defaults(given)
    if args.method is None:
        args.method = ["linear" if args.freeze_backbone else "finetune"]
    elif "linear" in args.method and "learning_rate" not in given:
        args.finetune_learning_rate = args.finetune_learning_rate or args.learning_rate
        args.learning_rate = _LINEAR_RATE
    return args


def check_probe_flags(args: Namespace) -> None:
    """Refuse flags that cannot be met, before anything is read."""
    check_base_flags(args)
    check_encoder_flags(args)
    check_evaluation_flags(args)
    check_positive(args, "finetune_epochs", "finetune_learning_rate", "feature_batch_size")
    if getattr(args, "freeze_backbone", False) and "finetune" in args.method:
        raise UserError("--freeze_backbone and --method finetune exclude each other: omit one")
    original = ["linear", "finetune"] if "freeze_backbone" in args else ["linear"]
    if args.protocol == "paper" and not set(args.method) <= set(original):
        raise UserError(f"--protocol paper has only --method {' and '.join(original)}: omit others")
    check_resume_flag(args, writes_checkpoints=args.method == ["finetune"])


def check_neighbours(args: Namespace, num_labelled: int) -> None:
    """Refuse fewer labelled pictures than there are neighbours."""
    if "knn" in args.method and num_labelled < max(NEIGHBOURS):
        raise UserError(
            f"{num_labelled} labelled images are fewer than {max(NEIGHBOURS)} neighbours: omit "
            "knn, or use more labels"
        )


def add_detector_args(parser: Parser) -> None:
    """Add the flags of a change detector."""
    add = parser.group("data").add_argument
    add("--patch_size", type=int, default=96, help="Pixels along one side of a training tile.")
    add = parser.group("training").add_argument
    add(
        "--pos_weight",
        type=_weight,
        help="Weight of a changed pixel in the loss (default: auto, so that all changed pixels of "
        "the training set weigh as much as all others; 1 under --protocol paper).",
    )
    add("--finetune_backbone", action="store_true", help="Train the encoder, too.")


def check_detector_flags(args: Namespace) -> None:
    """Refuse values that cannot work."""
    if args.pos_weight != "auto":
        check_positive(args, "pos_weight")
    if args.gpus is not None and args.gpus > 1:
        raise UserError(f"--gpus {args.gpus}: OSCD is small and trains on one device, use --gpus 1")
    if args.patch_size < _MIN_PATCH_SIZE:
        raise UserError(f"--patch_size must be {_MIN_PATCH_SIZE} or more, not {args.patch_size}")
    learns_statistics = args.finetune_backbone or args.protocol == "paper"
    if args.batch_size == 1 and args.patch_size <= _MIN_PATCH_SIZE and learns_statistics:
        raise UserError("--batch_size 1 and the smallest --patch_size are too few for batch norm")
    if args.val_frac != 1:
        raise UserError("--val_frac: the cities to validate on are few, leave it out")
    if args.save_predictions is not None and args.save_predictions.suffix != ".npz":
        raise UserError(f"--save_predictions {args.save_predictions}: maps are written as .npz")


def _weight(text: str) -> float | str:
    """Parse ``--pos_weight``."""
    return text if text == "auto" else float(text)
