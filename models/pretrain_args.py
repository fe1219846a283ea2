"""Command-line flags of the pre-training's views, model, optimiser and probes; imports no torch."""

import math
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.presets import BEFORE, DEFAULT, PRESETS
from utils.augment_config import AugmentConfig
from utils.cli import check_base_flags
from utils.errors import UserError
from utils.files import check_exists
from utils.flags import (
    LARGEST_SIDE,
    Parser,
    check_fraction,
    check_not_negative,
    check_positive,
)

# Flags that SecoDataModule, MocoV2 and AugmentConfig take under the same names.
OF_DATA = (
    *("data_dir", "data_mode", "bands", "num_workers", "seed"),
    *("on_bad_patch", "image_list", "cache"),
)
OF_MODEL = (
    *("base_encoder", "emb_dim", "num_negatives", "encoder_momentum", "softmax_temperature"),
    *("learning_rate", "momentum", "weight_decay", "schedule", "lr_schedule", "warmup_epochs"),
    *("bn_group_size", "log_every_n_steps"),
)
_PROBABILITIES = ("jitter_prob", "grayscale_prob", "blur_prob")
_OF_VIEWS = ("crop_size", "crop_scale", "color_jitter", *_PROBABILITIES, "rotate")
# Flags that a resumed run may set to other values: they do not describe what is learned.
MAY_CHANGE = (
    *("cache", "compile", "on_bad_patch", "schedule"),
    *("save_every_n_epochs", "log_every_n_steps", "on_save_error", "max_bad_steps"),
    *("online_data_dir", "online_max_epochs", "online_val_every_n_epoch"),
)
SCHEDULES = ("step", "cosine")  # of the learning rate: SeCo's and MoCo-v2's


def values(args: Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return some flags as keyword arguments.

    Args:
        args: Flags of the run.
        names: Names of the flags, without dashes.
    """
    return {name: getattr(args, name) for name in names}


def augment_config(args: Namespace) -> AugmentConfig:
    """Collect the flags; the paper's protocol rounds as the 8-bit pictures of the original did."""
    chosen = values(args, _OF_VIEWS)
    for name in ("crop_scale", "color_jitter"):
        chosen[name] = tuple(chosen[name])
    return AugmentConfig(**chosen, round_to_uint8=args.protocol == "paper")


def add_view_args(parser: Parser) -> None:
    """Add the flags of crop, colours, blur and rotation."""
    views = AugmentConfig()
    add = parser.group("views").add_argument
    add("--crop_size", type=int, default=views.crop_size, help="Height and width of a view, px.")
    numbers: dict[str, Any] = {"type": float, "nargs": 2, "metavar": ("MIN", "MAX")}
    area = "Smallest and largest share of the patch's area that a crop covers, in 0..1."
    add("--crop_scale", **numbers, default=views.crop_scale, help=area)
    numbers |= {"nargs": 4, "metavar": ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")}
    strength = (
        "Strength s of the colour jitter: the first three are factors in 1 - s .. 1 + s, the hue "
        "is shifted by up to s turns, at most 0.5."
    )
    add("--color_jitter", **numbers, default=views.color_jitter, help=strength)
    changes = ("the colours of a view are jittered", "a view is grey", "a view is blurred")
    for name, change in zip(_PROBABILITIES, changes, strict=True):
        text = f"Probability in 0..1 that {change}."
        add(f"--{name}", type=float, default=getattr(views, name), help=text)
    rotate = "Also flip views vertically and transpose them, for imagery without an up."
    add("--rotate", action=BooleanOptionalAction, default=views.rotate, help=rotate)


def add_pretrain_args(parser: Parser) -> None:
    """Add the flags of model, training, output and online probe; the probe is off without data."""
    add = parser.group("model").add_argument
    name = "Name of a torchvision ResNet, or resnet18_slim, a quarter as wide, for CPU demos."
    add("--base_encoder", help=name)
    add("--emb_dim", type=int, help="Size of an embedding.")
    add("--num_negatives", type=int, help="Embeddings in the queue of each space.")
    momentum = "Momentum of the key encoder, the share of its weights that a step keeps, in 0..1."
    add("--encoder_momentum", type=float, help=momentum)
    temperature = "Divisor of the similarities in the loss."
    add("--softmax_temperature", type=float, help=temperature)
    group = "Images that share batch-norm statistics, 0 for all images of a process."
    add("--bn_group_size", type=int, default=0, help=group)
    add("--compile", action="store_true", help="Compile the encoders, which pays off on a GPU.")
    add = parser.group("training").add_argument
    preset = "Set of defaults for a data set, see docs/training.md; other flags win."
    known: dict[str, Any] = {"type": lambda name: BEFORE.get(name, name), "choices": PRESETS}
    add("--preset", **known, default=DEFAULT, help=preset)
    add("--momentum", type=float, help="Momentum of SGD, in 0..1.")
    add("--weight_decay", type=float, help="Weight decay of SGD.")
    epochs: dict[str, Any] = {"type": int, "nargs": "*", "metavar": "EPOCH"}
    step = "Epochs after which --lr_schedule step divides the learning rate by ten."
    add("--schedule", **epochs, help=step)
    course = "Course of the learning rate over the epochs."
    add("--lr_schedule", choices=SCHEDULES, help=course)
    add("--warmup_epochs", type=float, default=0.0, help="Epochs of linear warm-up from 0.")
    bad = "Steps without a finite loss, keys and gradients that a run may skip."
    add("--max_bad_steps", type=int, default=10, help=bad)
    add = parser.group("output").add_argument
    add("--save_every_n_epochs", type=int, default=50, help="Epochs between two kept checkpoints.")
    failed = "Whether a checkpoint or log that cannot be written ends the run."
    add("--on_save_error", choices=["stop", "continue"], default="stop", help=failed)
    add("--log_every_n_steps", type=int, default=50, help="Steps between two logged values.")
    plan = "Check data, disk and memory, measure a few steps, print the plan, and write nothing."
    add("--dry_run", action="store_true", help=plan)
    add = parser.group("evaluation").add_argument
    online = "EuroSAT or BigEarthNet, on which the encoder is probed during the training."
    add("--online_data_dir", type=Path, help=online)
    add("--online_max_epochs", type=int, default=25, help="Epochs of each linear probe.")
    between = "Epochs of the pre-training between two probes."
    add("--online_val_every_n_epoch", type=int, default=25, help=between)
    parser.set_defaults(**PRESETS[DEFAULT])


def check_pretrain_flags(args: Namespace) -> None:
    """Refuse values that cannot work, before anything is read."""
    check_base_flags(args)
    check_exists("image_list", args.image_list)
    check_exists("online_data_dir", args.online_data_dir)
    check_positive(args, "crop_size", below=LARGEST_SIDE)
    check_positive(args, "emb_dim", "num_negatives", "softmax_temperature", "schedule")
    check_positive(args, "save_every_n_epochs", "log_every_n_steps")
    check_positive(args, "online_max_epochs", "online_val_every_n_epoch")
    check_not_negative(args, "weight_decay", "warmup_epochs", "bn_group_size", "max_bad_steps")
    for name in (*_PROBABILITIES, "encoder_momentum", "momentum"):
        check_fraction(name, getattr(args, name), or_zero=True)
    if args.warmup_epochs > args.max_epochs:
        raise UserError(f"--warmup_epochs {args.warmup_epochs:g} is more than all epochs: lower it")
    low, high = args.crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"--crop_scale needs 0 < MIN <= MAX <= 1, not {low} {high}")
    if not all(0 <= s < math.inf for s in args.color_jitter) or args.color_jitter[3] > 0.5:
        raise UserError(
            "--color_jitter needs four strengths of 0 or more, the last one (hue) at most 0.5"
        )
    if 1 in (args.batch_size, args.bn_group_size):
        raise UserError("--batch_size and --bn_group_size cannot be 1: batch norm compares images")


def check_batch(args: Namespace, batch_size: int, world_size: int) -> None:
    """Refuse a queue or a group of batch norm that does not fit the batch.

    Args:
        args: All flags.
        batch_size: Samples per step of one process.
        world_size: Number of processes.
    """
    samples_per_step = batch_size * world_size
    if args.num_negatives < samples_per_step:
        raise UserError(
            f"a queue of --num_negatives {args.num_negatives} is smaller than the "
            f"{samples_per_step} keys of a step: raise it, or lower --batch_size"
        )
    if args.bn_group_size > batch_size:
        raise UserError(
            f"--bn_group_size {args.bn_group_size} is more than the {batch_size} images of a "
            "batch: lower it, or use 0 for the whole batch"
        )
