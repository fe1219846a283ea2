"""Command-line flags of the encoder to evaluate, and their checks."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import check_checkpoint
from utils.flags import Parser
from utils.input_spec import INPUT_NORMS

DEFAULT_ENCODER = "resnet18"  # of the original
SOURCES = ("random", "imagenet", "pretrain")


def add_encoder_args(parser: Parser) -> None:
    """Add the flags of ``load_encoder`` and of ``input_transform``."""
    add = parser.group("model").add_argument
    add(
        "--backbone_type",
        choices=SOURCES,
        default="imagenet",
        help="Where the encoder's weights come from; pretrain reads --ckpt_path.",
    )
    add(
        "--ckpt_path",
        type=Path,
        help="Checkpoint of the encoder, for --backbone_type pretrain, see checkpoints/README.md.",
    )
    add(
        "--base_encoder",
        help="Name of a torchvision ResNet, or resnet18_slim, a quarter as wide, for CPU demos "
        f"(default: the checkpoint's, else {DEFAULT_ENCODER}).",
    )
    add(
        "--bands",
        nargs="+",
        metavar="BAND",
        help="Bands in channel order, such as B4 B3 B2 (default: the encoder's, else RGB).",
    )
    add(
        "--input_norm",
        choices=INPUT_NORMS,
        help="How stored values become inputs (default: auto, as in the pre-training; under "
        "--protocol paper the original's).",
    )


def add_feature_args(parser: Parser) -> None:
    """Add the flag of the features of a frozen encoder."""
    parser.group("devices").add_argument(
        "--feature_batch_size",
        type=int,
        default=128,
        help="Images per batch of the frozen encoder.",
    )


def check_encoder_flags(args: Namespace) -> None:
    """Refuse flags that do not determine an encoder, before anything is downloaded."""
    check_encoder_source(args.backbone_type, args.ckpt_path, args.bands)
    check_checkpoint("ckpt_path", args.ckpt_path)


def check_encoder_source(
    source: str, ckpt_path: Path | None, bands: Sequence[str] | None = None
) -> None:
    """Refuse a pre-trained encoder without a file, or a file that would not be read.

    Args:
        source: One of ``SOURCES``.
        ckpt_path: File of the encoder, for "pretrain" only.
        bands: Names of its channels.

    Raises:
        UserError: The file is missing or would be ignored, or a band is repeated.
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
