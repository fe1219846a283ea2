"""Command-line flags of the methods by which an encoder is evaluated; imports nothing heavy."""

from utils.flags import Parser

METHODS = {
    "linear": "a linear layer, trained by Adam on the frozen encoder",
    "lbfgs": "logistic regression, its strength chosen on val",
    "knn": "votes of the 5 and of the 20 nearest neighbours",
    "finetune": "training of the encoder with a linear layer",
}
NEIGHBOURS = (5, 20)


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


def _weight(text: str) -> float | str:
    """Parse ``--pos_weight``."""
    return text if text == "auto" else float(text)
