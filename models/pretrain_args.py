"""Command-line flags of the pre-training's model, optimizer and probes; imports nothing heavy."""

from argparse import Namespace
from pathlib import Path

from models.schedule import SCHEDULES
from utils.encoder_args import DEFAULT_ENCODER
from utils.errors import UserError
from utils.files import check_exists
from utils.flags import Parser, check_not_negative, check_positive


def add_model_args(parser: Parser) -> None:
    """Add the flags of the encoder and of the contrastive loss."""
    add = parser.group("model").add_argument
    add(
        "--base_encoder",
        default=DEFAULT_ENCODER,
        help="Name of a torchvision ResNet, or resnet18_slim, a quarter as wide, for CPU "
        "demos.",
    )
    add("--emb_dim", type=int, default=128, help="Numbers in an embedding.")
    add("--num_negatives", type=int, default=16384, help="Embeddings in the queue of each space.")
    add(
        "--encoder_momentum",
        type=float,
        default=0.999,
        help="Share of its old weights that the key encoder keeps in a step, in 0..1.",
    )
    add(
        "--softmax_temperature",
        type=float,
        default=0.07,
        help="Divisor of the similarities in the loss.",
    )
    add(
        "--bn_group_size",
        type=int,
        default=0,
        help="Images that share statistics of batch norm, 0 for all of a process.",
    )
    add("--compile", action="store_true", help="Compile the encoders, which pays off on a GPU.")


def add_training_args(parser: Parser) -> None:
    """Add the flags of SGD, its schedule and what is kept."""
    add = parser.group("training").add_argument
    add("--momentum", type=float, default=0.9, help="Momentum of SGD.")
    add("--weight_decay", type=float, default=1e-4, help="Weight decay of SGD.")
    add(
        "--schedule",
        type=int,
        nargs="*",
        metavar="EPOCH",
        default=[120, 160],
        help="Epochs after which --lr_schedule step divides the learning rate by ten.",
    )
    add(
        "--lr_schedule",
        choices=SCHEDULES,
        default="step",
        help="Course of the learning rate over the epochs.",
    )
    add(
        "--warmup_epochs",
        type=float,
        default=0,
        help="Epochs during which the learning rate rises linearly from 0.",
    )
    add = parser.group("output").add_argument
    add("--save_every_n_epochs", type=int, default=50, help="Epochs between two kept checkpoints.")
    add("--log_every_n_steps", type=int, default=50, help="Steps between two logged values.")


def add_online_args(parser: Parser) -> None:
    """Add the flags of the original's online probe, which is off without data."""
    add = parser.group("evaluation").add_argument
    add(
        "--online_data_dir",
        type=Path,
        help="EuroSAT or BigEarthNet, on which the encoder is probed during the training.",
    )
    add("--online_max_epochs", type=int, default=25, help="Epochs of each linear probe.")
    add(
        "--online_val_every_n_epoch",
        type=int,
        default=25,
        help="Epochs of the pre-training between two probes.",
    )


def check_pretrain_flags(args: Namespace) -> None:
    """Refuse values that cannot work."""
    check_exists("online_data_dir", args.online_data_dir)
    check_positive(args, "emb_dim", "num_negatives", "softmax_temperature")
    check_positive(args, "save_every_n_epochs", "log_every_n_steps")
    check_positive(args, "online_max_epochs", "online_val_every_n_epoch")
    check_not_negative(args, "momentum", "weight_decay", "warmup_epochs", "bn_group_size")
    if 1 in (args.batch_size, args.bn_group_size):
        raise UserError("--batch_size and --bn_group_size cannot be 1: batch norm compares images")
    if not 0 <= args.encoder_momentum <= 1:
        raise UserError(f"--encoder_momentum must be in 0..1, not {args.encoder_momentum}")
