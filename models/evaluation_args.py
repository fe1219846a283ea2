"""Command-line flags of the evaluation scripts, and their checks; imports no torch."""

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.cli import base_parser, check_base_flags, share_cores
from utils.errors import UserError, quoted
from utils.files import check_can_write, check_checkpoint
from utils.flags import LARGEST_SIDE, Parser, check_fraction, check_positive
from utils.input_spec import INPUT_NORMS
from utils.launch import World, add_launch_args, planned_world
from utils.precision import resolve_precision
from utils.resume import with_flags_of_run

DEFAULT_ENCODER = "resnet18"  # of the original
SOURCES = ("random", "imagenet", "pretrain")
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


def evaluation_parser(description: str | None, batch_size: int, learning_rate: float) -> Parser:
    """Create a parser with the flags that all evaluations have.

    Args:
        description: Text above the flags, with example commands.
        batch_size: Default of ``--batch_size``.
        learning_rate: Default of ``--learning_rate``.
    """
    parser = base_parser(
        description, max_epochs=100, batch_size=batch_size, learning_rate=learning_rate
    )
    parser.set_defaults(logger=["csv"])
    add_encoder_args(parser)
    add = parser.group("model").add_argument
    norm = "How stored values become inputs (default: auto, as in the pre-training; under "
    add("--input_norm", choices=INPUT_NORMS, help=f"{norm}--protocol paper the original's).")
    add = parser.group("evaluation").add_argument
    repetitions = "Repetitions; they use --seed, --seed + 1 and so on."
    add("--num_seeds", type=int, default=3, help=repetitions)
    share = "Share of the training labels in 0..1; several make a curve."
    add("--train_frac", type=float, nargs="+", metavar="SHARE", default=[1.0], help=share)
    file = "File for the predictions on the test set, .npz, or of classes and labels .parquet."
    parser.group("output").add_argument("--save_predictions", type=Path, metavar="FILE", help=file)
    return parser


def add_encoder_args(parser: Parser) -> None:
    """Add the flags that choose an encoder."""
    add = parser.group("model").add_argument
    source = "Where the encoder's weights come from; pretrain reads --ckpt_path."
    add("--backbone_type", choices=SOURCES, default="imagenet", help=source)
    file = "Checkpoint of the encoder, for --backbone_type pretrain, see checkpoints/README.md."
    add("--ckpt_path", type=Path, help=file)
    name = "Name of a torchvision ResNet, or resnet18_slim, a quarter as wide, for CPU demos "
    add("--base_encoder", help=f"{name}(default: the checkpoint's, else {DEFAULT_ENCODER}).")
    bands = "Bands in channel order, such as B4 B3 B2 (default: the encoder's, else RGB)."
    add("--bands", nargs="+", metavar="BAND", help=bands)


def probe_parser(description: str | None, batch_size: int, learning_rate: float) -> Parser:
    """Create a parser with the flags that all evaluations by classification have.

    Arguments as in ``evaluation_parser``.
    """
    parser = evaluation_parser(description, batch_size, learning_rate)
    add_launch_args(parser)
    size = "Images per batch of the frozen encoder."
    parser.group("devices").add_argument("--feature_batch_size", type=int, default=128, help=size)
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in METHODS.items())
    text = f"Methods to evaluate the encoder by, the main one first. {meanings}."
    parser.group("evaluation").add_argument("--method", choices=METHODS, nargs="+", help=text)
    share = "Share of the validation set to use, in 0..1."
    parser.group("evaluation").add_argument("--val_frac", type=float, default=1.0, help=share)
    add = parser.group("training").add_argument
    text = "Epochs of --method finetune, if other than --max_epochs."
    add("--finetune_epochs", type=int, help=text)
    text = "Learning rate of --method finetune at the start, if other than --learning_rate."
    add("--finetune_learning_rate", type=float, help=text)
    return parser


def parse_resumable(parser: Parser, argv: Sequence[str] | None, runs: str) -> Namespace:
    """Parse the command line; flags of the run that it resumes are the defaults.

    Args:
        parser: Parser of the script.
        argv: Command line without the script's name; None takes that of the process.
        runs: Pattern of the folders of the script's runs.
    """
    given = parser.parse_given(with_flags_of_run(parser, argv, _MAY_CHANGE, runs))
    args = parser.with_defaults(given)
    if args.method is None:
        args.method = ["linear" if args.freeze_backbone else "finetune"]
    elif "linear" in args.method and "learning_rate" not in given:
        if args.finetune_learning_rate is None:
            args.finetune_learning_rate = args.learning_rate
        args.learning_rate = _LINEAR_RATE
    return args


def check_evaluation_flags(args: Namespace, suffixes: Sequence[str], *, resumable: bool) -> None:
    """Refuse values that cannot work, before anything is read.

    Args:
        args: Flags of the run.
        suffixes: File formats of ``--save_predictions``.
        resumable: Whether the run trains something whose checkpoint can be resumed.
    """
    check_base_flags(args)
    check_encoder_source(args.backbone_type, args.ckpt_path, args.bands)
    check_checkpoint("ckpt_path", args.ckpt_path)
    check_positive(args, "num_seeds")
    for frac in args.train_frac:
        check_fraction("train_frac", frac)
    if len(set(args.train_frac)) < len(args.train_frac):
        raise UserError("--train_frac names a share twice: give each share once")
    if args.seed + args.num_seeds > 2**32:
        raise UserError(f"--seed {args.seed} and those after it must be below 2**32: lower it")
    path = args.save_predictions
    if path is not None and path.suffix not in suffixes:
        raise UserError(f"--save_predictions {path} must end in {' or '.join(suffixes)}")
    if path is not None:
        check_can_write("save_predictions", path, is_folder=False)
    if args.resume_from_checkpoint is not None and not resumable:
        raise UserError(
            "--resume_from_checkpoint resumes --method finetune only, because probes write no "
            "checkpoint: leave it out"
        )
    if args.resume_from_checkpoint is not None and args.num_seeds * len(args.train_frac) > 1:
        raise UserError(
            "--resume_from_checkpoint resumes one training: add --num_seeds 1, the --seed of its "
            "folder and one --train_frac"
        )


def check_encoder_source(
    source: str, ckpt_path: Path | None, bands: Sequence[str] | None = None
) -> None:
    """Refuse a pre-trained encoder without a file, or a file that would not be read.

    Args:
        source: One of ``SOURCES``.
        ckpt_path: File of the encoder, for "pretrain" only.
        bands: Names of its channels, each once.
    """
    if bands is not None and len(set(bands)) < len(bands):
        raise UserError(f"--bands needs distinct names, not: {' '.join(bands)}")
    if source == "pretrain" and ckpt_path is None:
        raise UserError("--backbone_type pretrain needs --ckpt_path")
    if source != "pretrain" and ckpt_path is not None:
        raise UserError(
            f"--ckpt_path {ckpt_path} is not read with --backbone_type {source}: add "
            "--backbone_type pretrain"
        )


def check_probe_flags(args: Namespace) -> None:
    """Refuse flags of a classification that cannot be met, before anything is read."""
    is_tuning = args.method == ["finetune"]
    check_evaluation_flags(args, (".npz", ".parquet"), resumable=is_tuning)
    check_positive(args, "finetune_epochs", "finetune_learning_rate", "feature_batch_size")
    check_fraction("val_frac", args.val_frac)
    if getattr(args, "freeze_backbone", False) and "finetune" in args.method:
        raise UserError("--freeze_backbone and --method finetune exclude each other: omit one")
    original = ["linear", "finetune"] if "freeze_backbone" in args else ["linear"]
    if args.protocol == "paper" and not set(args.method) <= set(original):
        raise UserError(f"--protocol paper has only --method {' and '.join(original)}: omit others")


def check_counts(args: Namespace, counts: Mapping[str, int]) -> None:
    """Refuse too few pictures or tiles.

    Args:
        args: Flags of the run.
        counts: Labelled samples to train on under "train", and samples of "val".
    """
    for split, count in counts.items():
        if args.protocol == "paper" and count < args.batch_size:
            raise UserError(
                f"--batch_size {args.batch_size} is more than the {count} {split} images, and "
                "--protocol paper drops the last batch if it is not full"
            )
    if "knn" in getattr(args, "method", ()) and counts["train"] < max(NEIGHBOURS):
        raise UserError(
            f"{counts['train']} labelled images are fewer than {max(NEIGHBOURS)} neighbours: omit "
            "knn, or use more labels"
        )


def input_norm(args: Namespace) -> str:
    """Return ``--input_norm``, or if it was not given the normalisation of the protocol."""
    return args.input_norm or ("paper" if args.protocol == "paper" else "auto")


def seeds(args: Namespace) -> range:
    """Return the seed of every repetition."""
    return range(args.seed, args.seed + args.num_seeds)


def start(args: Namespace) -> World | None:
    """Seed all generators and return the processes of the run; None ends a process without work."""
    world = plan_processes(args)
    if world.rank > 0 and "finetune" not in args.method:
        return None  # the launcher started more processes than probes use
    from pytorch_lightning import seed_everything  # takes seconds

    seed_everything(args.seed, verbose=False)
    return world


def plan_processes(args: Namespace) -> World:
    """Return the processes of the run; only fine-tuning uses more than one."""
    world = planned_world(args)
    resolve_precision(args, world.rank)
    if world.size > 1 and world.rank == 0 and set(args.method) != {"finetune"}:
        print("probes run on one device: only finetune uses the others", file=sys.stderr)
    share_cores(args.gpus, world.per_node if "finetune" in args.method else 1, 0)
    return world


def add_detector_args(parser: Parser) -> None:
    """Add the flags of a change detector."""
    add = parser.group("data").add_argument
    add("--patch_size", type=int, default=96, help="Pixels along one side of a training tile.")
    add = parser.group("training").add_argument
    weight = (
        "Weight of a changed pixel in the loss (default: auto, so that all changed pixels of the "
        "training set weigh as much as all others; 1 under --protocol paper)."
    )
    add("--pos_weight", type=_auto_or_number, help=weight)
    add("--finetune_backbone", action="store_true", help="Train the encoder, too.")


def _auto_or_number(text: str) -> str | float:
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{quoted(text)} is neither auto nor a number") from error


def check_detector_flags(args: Namespace) -> None:
    """Refuse values that cannot work, before anything is read."""
    check_evaluation_flags(args, (".npz",), resumable=True)
    if args.pos_weight != "auto":
        check_positive(args, "pos_weight")
    if args.gpus is not None and args.gpus > 1:
        raise UserError(f"--gpus {args.gpus}: OSCD is small and trains on one device, use --gpus 1")
    check_positive(args, "patch_size", below=LARGEST_SIDE)
    if args.patch_size < _MIN_PATCH_SIZE:
        raise UserError(f"--patch_size must be {_MIN_PATCH_SIZE} or more, not {args.patch_size}")
    learns_statistics = args.finetune_backbone or args.protocol == "paper"
    if args.batch_size == 1 and args.patch_size <= _MIN_PATCH_SIZE and learns_statistics:
        raise UserError(
            f"--batch_size 1 and --patch_size {args.patch_size} are too small for batch norm: "
            "raise one of them"
        )
