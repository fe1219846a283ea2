r"""Judge an encoder by EuroSAT (Helber et al. 2018, 2019): probes, neighbours, fine-tuning.

A linear classifier on the frozen encoder, and other methods on the same features:
python main_eurosat.py --data_dir EuroSAT_RGB.zip \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
python main_eurosat.py --data_dir EuroSAT_RGB.zip --method linear lbfgs knn \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt

Through the encoder, as a curve over shares of the labels:
python main_eurosat.py --data_dir EuroSAT_RGB.zip --method finetune --train_frac 0.01 0.1 1 \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
"""

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import seed_everything
from torch import Tensor

from datasets.eurosat_dataset import EurosatDataset, fingerprint
from datasets.eurosat_splits import LIST_PREFIXES, write_split
from models.backbones import Encoder, add_backbone_args, load_encoder
from models.features import cached, extract_features, feature_key
from models.finetuning import FineTuning
from models.picture_task import PictureTask, train_layer_each
from models.probes import (
    Labelled,
    Method,
    Predictions,
    accuracy,
    draw_rows,
    probe_by_adam,
    probe_by_lbfgs,
    vote_of_neighbours,
)
from utils.classification import accuracies, by_class, print_results, write_pictures
from utils.cli import (
    base_parser,
    check_base_flags,
    check_not_negative,
    check_positive,
    run,
    share_cores,
)
from utils.errors import UserError
from utils.evaluation import (
    add_evaluation_args,
    check_evaluation_flags,
    check_full_batch,
    check_resume_flag,
    input_norm,
    save_predictions,
    seeds,
    summarise,
)
from utils.input_transform import input_transform
from utils.launch import (
    World,
    add_launch_args,
    batch_size_per_process,
    planned_world,
)
from utils.metrics import batch_mean
from utils.precision import resolve_precision
from utils.report import run_dir_of_rank, share_dir, write_results
from utils.run_trainer import make_trainer
from utils.subset import stratified_subset

METHODS = {
    "linear": "a linear layer by Adam",
    "lbfgs": "logistic regression, its strength chosen on val",
    "knn": "votes of 5 and of 20 neighbours",
    "finetune": "training through the encoder",
}
NEIGHBOURS = (5, 20)


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(__doc__, max_epochs=100, batch_size=32, learning_rate=1e-3)
    add_backbone_args(parser)
    add_evaluation_args(parser)
    add_launch_args(parser)
    add = parser.add_argument
    meanings = ", ".join(METHODS.values()) + "; the first one stands on top of the results"
    add("--method", choices=METHODS, nargs="+", default=["linear"], help=meanings)
    add("--finetune_epochs", type=int, default=30, help="as --max_epochs, for finetune")
    add("--finetune_learning_rate", type=float, default=1e-4, help="as --learning_rate")
    add("--labels_per_class", type=int, help="train on so many random images per class, not on all")
    add("--split", choices=LIST_PREFIXES, default="random", help="spatial: apart in longitude")
    add("--split_seed", type=int, default=0, help="of the 60/20/20 split, if there are no lists")
    add("--feature_batch_size", type=int, default=128, help="images per step through the encoder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Judge an encoder, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    check_flags(args)
    world = plan_processes(args)
    if world.rank > 0 and "finetune" not in args.method:
        return {}  # its launcher started more processes than there is work for
    seed_everything(args.seed, workers=True, verbose=False)
    task, draws = load_task(args)
    methods, metrics = make_methods(args, task, draws, world)
    run_dir = run_dir_of_rank(args, f"eurosat-{args.backbone_type}", world.rank)
    results: dict[str, dict[str, Any]] = {name: {} for name in methods}
    predictions: dict[str, Predictions] = {}  # of the largest share, which comes last
    for name, method in methods.items():
        for frac, rows in draws.items():
            began = time.perf_counter()
            of_run = {"frac": frac, "folder": share_dir(run_dir, frac, len(draws))}
            predictions[name] = method(rows, **(of_run if name == "finetune" else {}))
            seconds = round(time.perf_counter() - began, 2)
            results[name][f"{frac:g}"] = measure(args, task, predictions[name]) | {
                "num_labelled": len(rows[0]),
                "seconds_training": seconds,
            }
    if world.rank == 0:
        first = next(name for name in methods if name.startswith(args.method[0]))
        metrics |= {f"num_{split}": len(rows) for split, rows in task.splits.items()}
        metrics |= {"classes": list(task.classes), **list(results[first].values())[-1]}
        metrics["by_method"] = results
        report(args, task, metrics, predictions[first], started, run_dir)
    return metrics


def check_flags(args: Namespace) -> None:
    """Refuse flags that cannot be met, before anything is read."""
    check_base_flags(args)
    check_evaluation_flags(args)
    check_positive(args, "labels_per_class", "feature_batch_size")
    check_positive(args, "finetune_epochs", "finetune_learning_rate")
    check_not_negative(args, "split_seed")
    check_resume_flag(args, writes_checkpoints=args.method == ["finetune"])
    if args.labels_per_class is not None and args.train_frac != [1.0]:
        raise UserError("--labels_per_class and --train_frac exclude each other: leave one out")
    if args.protocol == "paper" and args.method != ["linear"]:
        raise UserError("--protocol paper is the original's linear probe: leave --method out")


def plan_processes(args: Namespace) -> World:
    """Tell which process this is; only fine-tuning has work for several."""
    world = planned_world(args)
    resolve_precision(args, world.rank)
    if world.size > 1 and world.rank == 0 and set(args.method) != {"finetune"}:
        print("probes run on one device: only finetune uses the others", file=sys.stderr)
    share_cores(args.gpus, world.per_node if "finetune" in args.method else 1, 0)
    return world


def load_task(args: Namespace) -> tuple[PictureTask, dict[float, list[Tensor]]]:
    """Load encoder, split and, last, for it takes longest, the pictures.

    Returns:
        The task, and for each share of the labels the labelled rows of its train split, once per
        repetition.
    """
    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path, args.bands)
    data = EurosatDataset(args.data_dir)
    transform = input_transform(spec, data.spec, input_norm(args))
    splits = data.splits(args.split_seed, args.split)
    kept = stratified_subset(data.labels[splits["val"]], args.val_frac, args.seed)
    splits["val"] = splits["val"][kept]
    labels, per_class = data.labels[splits["train"]], args.labels_per_class
    draw = partial(draw_rows, labels, data.classes, seeds(args), labels_per_class=per_class)
    draws = {frac: draw(frac=frac) for frac in sorted(args.train_frac)}
    check_counts(args, min(len(rows[0]) for rows in draws.values()), len(splits["val"]))
    images = data.read_images(transform, args.num_workers)
    task = PictureTask(encoder, transform, images, data.names, data.labels, data.classes, splits)
    return task, draws


def check_counts(args: Namespace, num_labelled: int, num_val: int) -> None:
    """Refuse fewer images than a method needs."""
    if "knn" in args.method and num_labelled < max(NEIGHBOURS):
        raise UserError(
            f"{num_labelled} labelled images are fewer than {max(NEIGHBOURS)} neighbours: leave "
            "knn out, or take more labels"
        )
    check_full_batch(args, {"train": num_labelled, "val": num_val})


def make_methods(
    args: Namespace, task: PictureTask, draws: dict[float, list[Tensor]], world: World
) -> tuple[dict[str, Method], dict[str, Any]]:
    """Return the methods by name, and what their features cost."""
    on_batches = {"seeds": seeds(args), "max_epochs": args.max_epochs}
    on_batches |= {"batch_size": args.batch_size, "learning_rate": args.learning_rate}
    if args.protocol == "paper":
        train = partial(
            train_layer_each,
            task,
            make_trainer=partial(make_trainer, args, World(), "linear layer"),
        )
        return {"linear": partial(train, **on_batches)}, {}
    methods: dict[str, Method] = {}
    cost: dict[str, Any] = {}
    if world.rank == 0 and set(args.method) != {"finetune"}:
        data, cost = read_features(args, task)
        shared = (data, len(task.classes))
        methods["linear"] = partial(probe_by_adam, *shared, **on_batches)
        methods["lbfgs"] = partial(probe_by_lbfgs, *shared)
        methods |= {f"knn{k}": partial(vote_of_neighbours, *shared, k=k) for k in NEIGHBOURS}
    if "finetune" in args.method:
        methods["finetune"] = tuning = finetuning(args, task, world)
        tuning.check_resumable(draws)
    asked = tuple(args.method)
    return {name: m for name, m in methods.items() if name.startswith(asked)}, cost


def finetuning(args: Namespace, task: PictureTask, world: World) -> FineTuning:
    """Bind the flags of the fine-tuning."""
    flags = ("backbone_type", "labels_per_class", "split", "split_seed", "val_frac")
    per_process = batch_size_per_process(args, world)
    test = task.images[task.splits["test"]] if args.save_predictions and world.rank == 0 else None
    return FineTuning(
        task,
        seeds(args),
        make_trainer=partial(make_trainer, args, world, "fine-tuning"),
        max_epochs=args.finetune_epochs,
        batch_size=per_process,
        learning_rate=args.finetune_learning_rate,
        hyper_parameters={name: getattr(args, name) for name in flags}
        | {"samples_per_step": per_process * world.size},
        resumed=args.resume_from_checkpoint,
        embed=None if test is None else partial(encode, args, task, images=test),
    )


def read_features(args: Namespace, task: PictureTask) -> tuple[dict[str, Labelled], dict[str, Any]]:
    """Return features and classes of every split, and what they cost."""
    began = time.perf_counter()
    compute = partial(encode, args, task, task.encoder, task.images)
    data = fingerprint(task.names, task.images)
    key = feature_key(task.encoder, task.transform, data, args.precision)
    shape = (len(task.images), task.encoder.num_features)
    cache_dir = None if args.debug else args.log_dir / "features"
    features, were_cached = cached(cache_dir, key, shape, compute)
    splits = {s: Labelled(features[rows], task.labels_of(s)) for s, rows in task.splits.items()}
    seconds = round(time.perf_counter() - began, 2)
    return splits, {"features_were_cached": were_cached, "seconds_features": seconds}


def encode(args: Namespace, task: PictureTask, encoder: Encoder, images: Tensor) -> Tensor:
    """Compute the features of pictures, (N, D)."""
    return extract_features(
        encoder,
        task.transform,
        images.split(args.feature_batch_size),
        len(images),
        device=torch.device("cuda" if args.gpus else "cpu"),
        precision=args.precision,
    )


def measure(args: Namespace, task: PictureTask, predictions: Predictions) -> dict[str, Any]:
    """Return percentages on val and test, or the original's mean over batches of val."""
    scores = predictions.scores
    if args.protocol == "paper":
        score = partial(batch_mean, accuracy, task.labels_of("val"), batch_size=args.batch_size)
        return summarise("val/accuracy_batch_mean", [score(values) for values in scores["val"]])
    metrics = accuracies("val", task.labels_of("val"), scores["val"])
    metrics |= accuracies("test", task.labels_of("test"), scores["test"], interval_seed=args.seed)
    metrics |= by_class("test", task.labels_of("test"), scores["test"], task.classes)
    return metrics | predictions.chosen


def report(
    args: Namespace,
    task: PictureTask,
    metrics: dict[str, Any],
    shown: Predictions,
    started: float,
    run_dir: Path | None,
) -> None:
    """Print the results, and write those files that the flags ask for."""
    print_results(metrics)
    if run_dir is not None:
        write_split(run_dir, task.names, task.splits)
        write_pictures(run_dir, metrics, f"EuroSAT, {args.backbone_type}")
        write_results(run_dir / "results.json", args, metrics, started, shown.checkpoint)
    if args.save_predictions is not None:
        split = "test" if "test" in shown.scores else "val"
        names = [task.names[row] for row in task.splits[split].tolist()]
        targets, scores = task.labels_of(split), shown.scores[split][0]
        save_predictions(args.save_predictions, names, targets, scores, shown.embeddings)


if __name__ == "__main__":
    run(main)
