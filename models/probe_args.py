"""Command-line flags of the methods by which an encoder is evaluated; imports nothing heavy."""

from argparse import Namespace

from utils.errors import UserError
from utils.flags import Parser, check_positive

METHODS = {
    "linear": "a linear layer, trained by Adam on the frozen encoder",
    "lbfgs": "logistic regression, its strength chosen on val",
    "knn": "votes of the 5 and of the 20 nearest neighbours",
    "finetune": "training of the encoder with a linear layer",
}
NEIGHBOURS = (5, 20)
_MIN_PATCH_SIZE = 32  # pixels: 32 of them are one of the coarsest level of the detector


def add_method_args(parser: Parser) -> None:
    """Add the flags of the methods and of their labels."""
    add = parser.group("evaluation").add_argument
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in METHODS.items())
    add(
        "--method",
        choices=METHODS,
        nargs="+",
        default=["linear"],
        help=f"Methods to evaluate the encoder by, the main one first. {meanings}.",
    )
    add(
        "--labels_per_class",
        type=int,
        help="Random training images of each class whose labels are used (default: all).",
    )
    add = parser.group("training").add_argument
    add("--finetune_epochs", type=int, default=30, help="Epochs of --method finetune.")
    add(
        "--finetune_learning_rate",
        type=float,
        default=1e-4,
        help="Learning rate of --method finetune at the start.",
    )


def check_method_flags(args: Namespace) -> None:
    """Refuse values that cannot work."""
    check_positive(args, "labels_per_class", "finetune_epochs", "finetune_learning_rate")
    if args.labels_per_class is not None and args.train_frac != [1.0]:
        raise UserError("--labels_per_class and --train_frac exclude each other: leave one out")
    if args.protocol == "paper" and args.method != ["linear"]:
        raise UserError("--protocol paper is the original's linear probe: leave --method out")


def add_label_args(parser: Parser) -> None:
    """Add the flags of a classifier with several labels per picture."""
    add = parser.group("training").add_argument
    add(
        "--freeze_backbone",
        action="store_true",
        help="Train a linear layer alone; the original's learning rate for it is 1e-3.",
    )
    add(
        "--milestones",
        type=int,
        nargs="*",
        metavar="EPOCH",
        default=[60, 80],
        help="Epochs after which the learning rate is divided by ten.",
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
