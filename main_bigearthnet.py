r"""Judge an encoder by BigEarthNet (Sumbul et al. 2019): linear probe or fine-tuning, multi-label.

A linear classifier on the frozen encoder, from 10 % of the labels, and as a curve:

python main_bigearthnet.py --gpus 4 --accelerator dp --batch_size 1024 \
  --data_dir BigEarthNet-LMDB --lmdb --train_frac 0.1 --freeze_backbone --learning_rate 1e-3 \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
python main_bigearthnet.py --data_dir BigEarthNet-LMDB --lmdb --train_frac 0.01 0.1 1 \
  --freeze_backbone --learning_rate 1e-3 --batch_size 1024 \
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.bigearthnet.facts import BIGEARTHNET_SPEC, add_bigearthnet_args
from models.probe_args import add_label_args
from utils.cli import base_parser, check_base_flags, run, share_cores
from utils.encoder_args import add_encoder_args, add_feature_args, check_encoder_flags
from utils.evaluation import (
    add_evaluation_args,
    check_evaluation_flags,
    check_full_batch,
    check_resume_flag,
    input_norm,
    print_finished,
    save_predictions,
    seeds,
)
from utils.flags import check_positive
from utils.input_spec import input_transform
from utils.launch import World, add_launch_args, batch_size_per_process, planned_world
from utils.precision import resolve_precision
from utils.report import run_dir_of_rank, save_results, share_dir, write_results
from utils.resume import with_flags_of_run

# torch and Lightning take seconds to import: whatever needs them is imported by the function that
# uses it, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    from torch import Tensor

    from datasets.bigearthnet.pictures import BigEarthNetRuns
    from models.backbones import Encoder
    from models.finetuning import FineTuning
    from models.label_task import LabelTask, Pictures
    from models.probes import Labelled, Method, Predictions

TRAINING: dict[str, dict[str, Any]] = {  # of each protocol
    "corrected": {"select_epoch": True, "drop_last": False},
    "paper": {"select_epoch": False, "drop_last": True},
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(__doc__, max_epochs=100, batch_size=256, learning_rate=1e-5)
    add_encoder_args(parser)
    add_feature_args(parser)
    add_evaluation_args(parser)
    add_launch_args(parser)
    add_bigearthnet_args(parser)
    add_label_args(parser)
    may_change = ("lmdb", "feature_batch_size", "save_predictions")
    return parser.parse_args(with_flags_of_run(parser, argv, may_change))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Judge an encoder, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    check_flags(args)
    world = plan_processes(args)
    if world.rank > 0 and args.freeze_backbone:
        return {}  # its launcher started more processes than there is work for
    from pytorch_lightning import seed_everything

    seed_everything(args.seed, verbose=False)
    task, data = load_task(args, world)
    method, cost = make_method(args, task, data.draws, world)
    cost |= {"left_out": data.index.left_out, "classes": list(task.classes)}
    mode = "probe" if args.freeze_backbone else "finetune"
    run_dir = run_dir_of_rank(args, f"bigearthnet-{mode}-{args.backbone_type}", world.rank)
    results: dict[str, dict[str, Any]] = {}
    metrics: dict[str, Any] = {}
    for frac, rows in data.draws.items():
        began = time.perf_counter()
        of_run = {"frac": frac, "folder": share_dir(run_dir, frac, len(data.draws))}
        predictions = method(rows, **({} if args.freeze_backbone else of_run))
        seconds = round(time.perf_counter() - began, 2)
        if world.rank == 0:
            result = measure(args, task, predictions)
            result |= {"num_labelled": len(rows[0]), "seconds_training": seconds}
            results[f"{frac:g}"] = result
            metrics = cost | record(args, task, results)
            print_finished(f"{len(rows[0]):,} labels", result)
            save_results(run_dir, args, metrics, started)
    if world.rank == 0:
        report(args, task, metrics, predictions, started, run_dir)
    return metrics


def check_flags(args: Namespace) -> None:
    """Refuse flags that cannot be met, before anything is read."""
    check_base_flags(args)
    check_encoder_flags(args)
    check_evaluation_flags(args)
    check_positive(args, "image_size", "feature_batch_size")
    check_resume_flag(args, writes_checkpoints=not args.freeze_backbone)


def plan_processes(args: Namespace) -> World:
    """Tell which process this is; a probe on cached features has work for one."""
    world = planned_world(args)
    resolve_precision(args, world.rank)
    if world.size > 1 and world.rank == 0 and args.freeze_backbone:
        print("a frozen encoder's features are computed once, on one device", file=sys.stderr)
    share_cores(args.gpus, 1 if args.freeze_backbone else world.per_node, 0)
    return world


def load_task(args: Namespace, world: World) -> tuple[LabelTask, BigEarthNetRuns]:
    """Load encoder and data set, and draw the labelled patches."""
    from datasets.bigearthnet.index import open_bigearthnet
    from datasets.bigearthnet.pictures import draw_splits
    from models.backbones import load_encoder
    from models.label_task import LabelTask

    paper = args.protocol == "paper"
    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path, args.bands)
    transform = input_transform(spec, BIGEARTHNET_SPEC, input_norm(args))
    index = open_bigearthnet(
        args.data_dir, lmdb=args.lmdb, num_classes=args.num_classes, keep_unlabelled=paper
    )
    if world.rank == 0:
        print(index.summary(), file=sys.stderr)
    data = draw_splits(
        index,
        transform,
        image_size=args.image_size,
        train_fracs=args.train_frac,
        val_frac=args.val_frac,
        seeds=seeds(args),
        with_replacement=paper,
    )
    counts = {split: len(targets) for split, targets in data.targets.items()}
    counts["train"] = min(len(rows[0]) for rows in data.draws.values())
    check_full_batch(args, counts)
    task = LabelTask(
        encoder=encoder,
        transform=transform,
        data=data.pictures,
        targets=data.targets,
        classes=index.classes,
        milestones=args.milestones,
        dropout=0.2 if paper else 0.0,
        encoder_in_train_mode=not paper,
    )
    return task, data


def make_method(
    args: Namespace, task: LabelTask, draws: dict[float, list[Tensor]], world: World
) -> tuple[Method, dict[str, Any]]:
    """Return what trains on labelled rows, and what its features cost."""
    if not args.freeze_backbone:
        tuning = finetuning(args, task, world)
        tuning.check_resumable(draws)
        return tuning, {}
    import torch

    from models.label_task import probe_each

    needed = torch.cat([rows for each in draws.values() for rows in each]).unique()
    data, cost = read_features(args, task, needed)

    def probe(rows: Sequence[Tensor]) -> Predictions:
        return probe_each(
            data,
            [torch.searchsorted(needed, chosen) for chosen in rows],
            seeds=seeds(args),
            max_epochs=args.max_epochs,
            learning_rate=args.learning_rate,
            batch_size=batch_size_per_process(args, world) * world.size,
            milestones=args.milestones,
            standardise=args.protocol != "paper",
            dropout=task.dropout,
            **TRAINING[args.protocol],
        )

    return probe, cost


def finetuning(args: Namespace, task: LabelTask, world: World) -> FineTuning:
    """Bind the flags of the fine-tuning."""
    from models.finetuning import FineTuning
    from models.label_task import map_micro
    from utils.training import make_trainer

    shown = task.pictures(task.held_out[-1])
    every = 10 if args.protocol == "paper" else 1
    embeds = args.save_predictions is not None and world.rank == 0
    flags = ("protocol", "backbone_type", "num_classes", "image_size", "val_frac")
    per_process = batch_size_per_process(args, world)
    return FineTuning(
        task,
        seeds(args),
        make_trainer=partial(make_trainer, args, world, "fine-tuning", val_every_n_epochs=every),
        max_epochs=args.max_epochs,
        batch_size=per_process,
        learning_rate=args.learning_rate,
        score=map_micro,
        held_out=task.held_out,
        num_workers=args.num_workers,
        embed=(lambda tuned: encode(args, task, shown, tuned)[0]) if embeds else None,
        hyper_parameters={name: getattr(args, name) for name in flags}
        | {"samples_per_step": per_process * world.size},
        resumed=args.resume_from_checkpoint,
        **TRAINING[args.protocol],
    )


def read_features(
    args: Namespace, task: LabelTask, needed: Tensor
) -> tuple[dict[str, Labelled], dict[str, Any]]:
    """Return features and labels of the train rows that are needed and of the other splits."""
    import torch

    from models.probes import Labelled

    began = time.perf_counter()
    data, were_cached = {}, []
    for split, targets in task.targets.items():
        rows = needed if split == "train" else torch.arange(len(targets))
        features, was_cached = encode(args, task, task.pictures(split, rows))
        data[split] = Labelled(features, targets[rows].float())
        were_cached.append(was_cached)
    seconds = round(time.perf_counter() - began, 2)
    return data, {"features_were_cached": all(were_cached), "seconds_features": seconds}


def encode(
    args: Namespace, task: LabelTask, pictures: Pictures, encoder: Encoder | None = None
) -> tuple[Tensor, bool]:
    """Compute features of pictures, (N, D), by the task's encoder unless another one is given."""
    import torch

    is_cached = encoder is None and not args.debug
    return task.features(
        pictures,
        encoder=encoder,
        cache_dir=args.log_dir / "features" if is_cached else None,
        batch_size=args.feature_batch_size,
        num_workers=args.num_workers,
        device=torch.device("cuda" if args.gpus else "cpu"),
        precision=args.precision,
    )


def measure(args: Namespace, task: LabelTask, predictions: Predictions) -> dict[str, Any]:
    """Return percentages on val and test, or the original's mean over batches of val."""
    from utils.multi_label import batch_mean_of_micro, label_metrics, per_class_precision

    targets, scores = task.targets, predictions.scores
    if args.protocol == "paper":
        return batch_mean_of_micro(targets["val"], scores["val"], args.batch_size)
    metrics = label_metrics("val", targets["val"], scores["val"])
    metrics |= label_metrics("test", targets["test"], scores["test"], interval_seed=args.seed)
    metrics |= per_class_precision("test", targets["test"], scores["test"], task.classes)
    return metrics | predictions.chosen


def record(args: Namespace, task: LabelTask, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the results of all shares so far, those of the largest one on top."""
    counts = {f"num_{split}": len(targets) for split, targets in task.targets.items()}
    method = {"method": "linear" if args.freeze_backbone else "finetune"}
    return counts | method | list(results.values())[-1] | {"by_train_frac": results}


def report(
    args: Namespace,
    task: LabelTask,
    metrics: dict[str, Any],
    shown: Predictions,
    started: float,
    run_dir: Path | None,
) -> None:
    """Print the results, and write those files that the flags ask for."""
    from utils.multi_label import print_results, write_pictures

    print_results(metrics)
    split = task.held_out[-1]  # test, if it was scored
    if args.save_predictions is not None:
        targets, scores = task.targets[split], shown.scores[split][0]
        names = task.data[split].names
        save_predictions(args.save_predictions, names, targets, scores, shown.embeddings)
    if run_dir is not None:
        write_pictures(run_dir, metrics, f"BigEarthNet, {args.backbone_type}")
        write_results(run_dir / "results.json", args, metrics, started, shown.checkpoint)


if __name__ == "__main__":
    run(main)
