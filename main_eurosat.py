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

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.eurosat.splits import add_split_args, write_split
from models.probe_args import NEIGHBOURS, add_method_args, check_method_flags
from utils.cli import base_parser, check_base_flags, run, share_cores
from utils.encoder_args import add_encoder_args, add_feature_args, check_encoder_flags
from utils.errors import UserError
from utils.evaluation import (
    add_evaluation_args,
    check_evaluation_flags,
    check_full_batch,
    check_resume_flag,
    input_norm,
    print_finished,
    save_predictions,
    seeds,
    summarise,
)
from utils.flags import check_not_negative, check_positive
from utils.launch import World, add_launch_args, batch_size_per_process, planned_world
from utils.precision import resolve_precision
from utils.report import run_dir_of_rank, save_results, share_dir, write_results
from utils.resume import with_flags_of_run

# torch and Lightning take seconds to import: whatever needs them is imported by the function that
# uses it, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    from torch import Tensor

    from models.backbones import Encoder
    from models.finetuning import FineTuning
    from models.picture_task import PictureTask
    from models.probes import Labelled, Method, Predictions


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(__doc__, max_epochs=100, batch_size=32, learning_rate=1e-3)
    add_encoder_args(parser)
    add_evaluation_args(parser)
    add_launch_args(parser)
    add_method_args(parser)
    add_split_args(parser)
    add_feature_args(parser)
    may_change = ("finetune_epochs", "feature_batch_size", "save_predictions")
    return parser.parse_args(with_flags_of_run(parser, argv, may_change))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Judge an encoder, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    check_flags(args)
    world = plan_processes(args)
    if world.rank > 0 and "finetune" not in args.method:
        return {}  # its launcher started more processes than there is work for
    from pytorch_lightning import seed_everything

    seed_everything(args.seed, verbose=False)
    task, draws = load_task(args)
    methods, cost = make_methods(args, task, draws, world)
    run_dir = run_dir_of_rank(args, f"eurosat-{args.backbone_type}", world.rank)
    results: dict[str, dict[str, Any]] = {}
    metrics: dict[str, Any] = {}
    predictions: dict[str, Predictions] = {}  # of the largest share, which comes last
    for name, method in methods.items():
        for frac, rows in draws.items():
            began = time.perf_counter()
            of_run = {"frac": frac, "folder": share_dir(run_dir, frac, len(draws))}
            predictions[name] = method(rows, **(of_run if name == "finetune" else {}))
            seconds = round(time.perf_counter() - began, 2)
            if world.rank == 0:
                result = measure(args, task, predictions[name])
                result |= {"num_labelled": len(rows[0]), "seconds_training": seconds}
                results.setdefault(name, {})[f"{frac:g}"] = result
                metrics = cost | record(args, task, results)
                print_finished(f"{name}, {len(rows[0]):,} labels", result)
                save_results(run_dir, args, metrics, started)
    if world.rank == 0:
        report(args, task, metrics, predictions[metrics["method"]], started, run_dir)
    return metrics


def check_flags(args: Namespace) -> None:
    """Refuse flags that cannot be met, before anything is read."""
    check_base_flags(args)
    check_encoder_flags(args)
    check_evaluation_flags(args)
    check_method_flags(args)
    check_positive(args, "feature_batch_size")
    check_not_negative(args, "split_seed")
    check_resume_flag(args, writes_checkpoints=args.method == ["finetune"])


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
    from datasets.eurosat_dataset import EurosatDataset
    from models.backbones import load_encoder
    from models.picture_task import PictureTask
    from models.probes import draw_rows
    from utils.input_spec import input_transform
    from utils.subset import stratified_subset

    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path, args.bands)
    data = EurosatDataset(args.data_dir)
    transform = input_transform(spec, data.spec, input_norm(args))
    splits = data.splits(args.split_seed, args.split)
    kept = stratified_subset(data.labels[splits["val"]], args.val_frac, args.seed)
    splits["val"] = splits["val"][kept]
    labels, per_class = data.labels[splits["train"]], args.labels_per_class
    draw = partial(draw_rows, labels, data.classes, seeds(args), labels_per_class=per_class)
    present = data.labels.unique().tolist()
    draws = {frac: draw(frac=frac, present=present) for frac in sorted(args.train_frac)}
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
    from models.picture_task import train_layer_each
    from models.probes import probe_by_adam, probe_by_lbfgs, vote_of_neighbours
    from utils.training import make_trainer

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
    from models.finetuning import FineTuning
    from utils.training import make_trainer

    flags = ("backbone_type", "labels_per_class", "split", "split_seed", "val_frac")
    per_process = batch_size_per_process(args, world)
    test = task.images[task.splits["test"]] if args.save_predictions and world.rank == 0 else None
    return FineTuning(
        task,
        seeds(args),
        # Only the fine-tuning writes checkpoints, and so it alone is resumed.
        make_trainer=partial(make_trainer, only_finetuning(args), world, "fine-tuning"),
        max_epochs=args.finetune_epochs,
        batch_size=per_process,
        learning_rate=args.finetune_learning_rate,
        hyper_parameters={name: getattr(args, name) for name in flags}
        | {"samples_per_step": per_process * world.size},
        resumed=args.resume_from_checkpoint,
        embed=None if test is None else partial(encode, args, task, images=test),
    )


def only_finetuning(args: Namespace) -> Namespace:
    """Return the flags of the fine-tuning without the other methods."""
    return Namespace(**vars(args) | {"method": ["finetune"]})


def read_features(args: Namespace, task: PictureTask) -> tuple[dict[str, Labelled], dict[str, Any]]:
    """Return features and classes of every split, and what they cost."""
    from datasets.eurosat_dataset import fingerprint
    from models.features import cached, feature_key
    from models.probes import Labelled

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
    import torch

    from models.features import extract_features

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
    from models.probes import accuracy
    from utils.classification import accuracies, by_class
    from utils.metrics import batch_mean

    scores = predictions.scores
    if args.protocol == "paper":
        score = partial(batch_mean, accuracy, task.labels_of("val"), batch_size=args.batch_size)
        return summarise("val/accuracy_batch_mean", [score(values) for values in scores["val"]])
    metrics = accuracies("val", task.labels_of("val"), scores["val"])
    metrics |= accuracies("test", task.labels_of("test"), scores["test"], interval_seed=args.seed)
    metrics |= by_class("test", task.labels_of("test"), scores["test"], task.classes)
    return metrics | predictions.chosen


def record(
    args: Namespace, task: PictureTask, results: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return everyone's results so far, those of the first method's largest share on top."""
    asked = args.method[0]
    method = next((name for name in results if name.startswith(asked)), next(iter(results)))
    counts = {f"num_{split}": len(rows) for split, rows in task.splits.items()}
    shown = list(results[method].values())[-1]
    return counts | {"classes": list(task.classes), "method": method, "by_method": results} | shown


def report(
    args: Namespace,
    task: PictureTask,
    metrics: dict[str, Any],
    shown: Predictions,
    started: float,
    run_dir: Path | None,
) -> None:
    """Print the results, and write those files that the flags ask for."""
    from utils.classification import print_results, write_pictures

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
