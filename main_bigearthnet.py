r"""Evaluate an encoder on BigEarthNet (Sumbul et al. 2019), with several labels per picture.

A linear classifier on the frozen encoder, from 10 % of the labels, and other methods as a curve:

python main_bigearthnet.py --gpus 4 --accelerator dp --batch_size 1024 \
  --data_dir BigEarthNet-LMDB --lmdb --train_frac 0.1 --freeze_backbone --learning_rate 1e-3 \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
python main_bigearthnet.py --data_dir BigEarthNet-LMDB --lmdb --train_frac 0.01 0.1 1 \
  --method linear lbfgs knn --learning_rate 1e-3 --batch_size 1024 \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt

Through the encoder:

python main_bigearthnet.py --gpus 4 --accelerator dp --batch_size 1024 \
  --data_dir BigEarthNet-LMDB --lmdb --train_frac 0.1 --learning_rate 1e-5 \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datasets.bigearthnet.facts import BIGEARTHNET_SPEC, add_bigearthnet_args
from models import evaluation_args as flags
from utils.cli import run
from utils.flags import LARGEST_SIDE, check_positive
from utils.input_spec import input_transform
from utils.launch import batch_size_per_process

# torch and Lightning take seconds to import: functions import them, so that --help and wrong flags
# are answered at once.
if TYPE_CHECKING:
    from torch import Tensor

    from models.backbones import Encoder
    from utils.launch import World
    from utils.probe_data import ProbeData

# How a classifier is trained under --protocol paper.
PAPER: dict[str, Any] = {
    **{"select_epoch": False, "drop_last": True, "dropout": 0.2, "standardise": "none"},
    **{"encoder_in_train_mode": False, "val_every_n_epochs": 10},
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = flags.probe_parser(__doc__, batch_size=256, learning_rate=1e-5)
    add_bigearthnet_args(parser)
    add = parser.group("training").add_argument
    freeze = "Use --method linear, not finetune; the original's learning rate for it is 1e-3."
    add("--freeze_backbone", action="store_true", help=freeze)
    epochs: dict[str, Any] = {"type": int, "nargs": "*", "metavar": "EPOCH"}
    falls = "Epochs after which the learning rate is divided by ten."
    add("--milestones", **epochs, default=[60, 80], help=falls)
    return flags.parse_resumable(parser, argv, "bigearthnet-*")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate an encoder, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    flags.check_probe_flags(args)
    check_positive(args, "image_size", below=LARGEST_SIDE)
    check_positive(args, "milestones")
    world = flags.start(args)
    if world is None:
        return {}
    from models.evaluation import Evaluation
    from models.linear_probe import Recipe

    encoder, data, draws, left_out = load_task(args, world)
    choices = dict(PAPER) if args.protocol == "paper" else {}
    choices |= {"milestones": args.milestones}
    per_process = batch_size_per_process(args, world)
    epochs = args.finetune_epochs or args.max_epochs
    learning_rate = args.finetune_learning_rate or args.learning_rate
    mode = "finetune" if args.method[0] == "finetune" else "probe"
    metrics, _ = Evaluation(
        args,
        world,
        encoder,
        data,
        draws,
        Recipe(args.max_epochs, per_process * world.size, args.learning_rate, **choices),
        Recipe(epochs, per_process, learning_rate, **choices),
        name="BigEarthNet",
        folder=f"bigearthnet-{mode}-{args.backbone_type}",
        described=("protocol", "backbone_type", "num_classes", "image_size", "val_frac"),
        facts={"left_out": left_out},
    ).run(started)
    return metrics


def load_task(
    args: Namespace, world: World
) -> tuple[Encoder, ProbeData, dict[float, list[Tensor]], dict[str, int]]:
    """Load encoder and data set, and draw the labelled patches.

    Args:
        args: Flags of the run.
        world: Processes of the run; the first one prints what was found.

    Returns:
        Encoder, labelled splits, the rows of every share and repetition, and the number of patches
        that were left out, by reason.
    """
    from datasets.bigearthnet.index import open_bigearthnet
    from datasets.bigearthnet.pictures import draw_splits
    from models.backbones import load_encoder
    from utils.probe_data import LabelledSplit, ProbeData

    paper = args.protocol == "paper"
    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path, args.bands)
    transform = input_transform(spec, BIGEARTHNET_SPEC, flags.input_norm(args))
    index = open_bigearthnet(
        args.data_dir, lmdb=args.lmdb, num_classes=args.num_classes, keep_unlabelled=paper
    )
    if world.rank == 0:
        print(index.summary(), file=sys.stderr)
    pictures, draws = draw_splits(
        index,
        transform,
        image_size=args.image_size,
        train_fracs=args.train_frac,
        val_frac=args.val_frac,
        seeds=flags.seeds(args),
        with_replacement=paper,
    )
    num_labelled = min(len(rows[0]) for rows in draws.values())
    flags.check_counts(args, {"train": num_labelled, "val": len(pictures["val"])})
    splits = {name: LabelledSplit.of(each) for name, each in pictures.items()}
    data = ProbeData(transform, splits, index.classes, args.num_workers)
    return encoder, data, draws, index.left_out


if __name__ == "__main__":
    run(main)
