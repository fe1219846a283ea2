r"""Evaluate an encoder on EuroSAT (Helber et al. 2018, 2019): probes, neighbours, fine-tuning.

A linear classifier on the frozen encoder, and other methods on the same features:
python main_eurosat.py --data_dir EuroSAT_RGB.zip \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
python main_eurosat.py --data_dir EuroSAT_RGB.zip --method linear lbfgs knn \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt

Through the encoder, as a curve over shares of the labels:
python main_eurosat.py --data_dir EuroSAT_RGB.zip --method finetune --train_frac 0.01 0.1 1 \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datasets.eurosat.splits import add_split_args, write_split
from models import evaluation_args as flags
from utils.cli import run
from utils.errors import UserError
from utils.flags import check_not_negative, check_positive
from utils.launch import batch_size_per_process

# torch and Lightning take seconds to import: functions import them, so that --help and wrong flags
# are answered at once.
if TYPE_CHECKING:
    from torch import Tensor

    from models.backbones import Encoder
    from utils.probe_data import ProbeData

# How a linear layer is trained, by protocol: on features, or through the encoder.
CORRECTED: dict[str, Any] = {"standardise": "train"}
PAPER: dict[str, Any] = {
    **{"freeze_backbone": True, "encoder_in_train_mode": True, "seeded_order": False},
    **{"select_epoch": False, "drop_last": True},
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = flags.probe_parser(__doc__, batch_size=32, learning_rate=1e-3)
    parser.set_defaults(method=["linear"], finetune_epochs=30, finetune_learning_rate=1e-4)
    add_split_args(parser)
    count = "Random training images of each class whose labels are used (default: all)."
    parser.group("evaluation").add_argument("--labels_per_class", type=int, help=count)
    return flags.parse_resumable(parser, argv, "eurosat-*")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate an encoder, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    flags.check_probe_flags(args)
    check_positive(args, "labels_per_class")
    check_not_negative(args, "split_seed")
    if args.labels_per_class is not None and args.train_frac != [1.0]:
        raise UserError("--labels_per_class and --train_frac exclude each other: omit one")
    world = flags.start(args)
    if world is None:
        return {}
    import torch

    from models.evaluation import Evaluation
    from models.linear_probe import Recipe

    encoder, data, draws = load_task(args)
    choices = PAPER if args.protocol == "paper" else CORRECTED
    per_process = batch_size_per_process(args, world)
    metrics, run_dir = Evaluation(
        args,
        world,
        encoder,
        data,
        draws,
        Recipe(args.max_epochs, args.batch_size, args.learning_rate, **choices),
        Recipe(args.finetune_epochs, per_process, args.finetune_learning_rate),
        name="EuroSAT",
        folder=f"eurosat-{args.backbone_type}",
        described=("backbone_type", "labels_per_class", "split", "split_seed", "val_frac"),
    ).run(started)
    if run_dir is not None:
        for name, split in data.splits.items():
            write_split(run_dir, split.names, {name: torch.arange(len(split.names))})
    return metrics


def load_task(args: Namespace) -> tuple[Encoder, ProbeData, dict[float, list[Tensor]]]:
    """Load encoder, split and, last because it takes longest, the pictures.

    Returns:
        Encoder and pictures, and for each share of the labels the labelled rows of the train split,
        once per repetition.

    Raises:
        UserError: A class has no image to train on.
    """
    from datasets.eurosat_dataset import EurosatDataset
    from models.backbones import load_encoder
    from utils.input_spec import input_transform
    from utils.probe_data import ProbeData, splits_in_memory
    from utils.subset import draw_labels, draw_per_class, stratified_subset

    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path, args.bands)
    dataset = EurosatDataset(args.data_dir)
    transform = input_transform(spec, dataset.spec, flags.input_norm(args))
    rows = dataset.splits(args.split_seed, args.split)
    kept = stratified_subset(dataset.labels[rows["val"]], args.val_frac, args.seed)
    rows["val"] = rows["val"][kept]
    labels, classes = dataset.labels[rows["train"]], dataset.classes
    missing = sorted(set(dataset.labels.tolist()) - set(labels.tolist()))
    if missing:
        name = classes[missing[0]]
        raise UserError(f"the train split has no sample of {name}: correct its list")

    def draw(frac: float, seed: int) -> Tensor:
        if args.labels_per_class is not None:
            return draw_per_class(labels, args.labels_per_class, seed)
        return draw_labels(labels, classes, frac, seed)

    fracs = sorted(args.train_frac)
    draws = {frac: [draw(frac, seed) for seed in flags.seeds(args)] for frac in fracs}
    num_labelled = min(len(chosen[0]) for chosen in draws.values())
    flags.check_counts(args, {"train": num_labelled, "val": len(rows["val"])})
    images = dataset.read_images(transform, args.num_workers)
    splits = splits_in_memory(images, dataset.labels, dataset.names, rows)
    return encoder, ProbeData(transform, splits, classes), draws


if __name__ == "__main__":
    run(main)
