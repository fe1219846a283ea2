r"""Train linear classifiers on EuroSAT (Helber et al. 2018, 2019) from a frozen encoder.

python main_eurosat.py --data_dir EuroSAT_RGB.zip \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt

With few labels, from the same cached features:

python main_eurosat.py --data_dir EuroSAT_RGB.zip --labels_per_class 10 \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
"""

import time
from argparse import Namespace
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datasets.eurosat_dataset import EurosatDataset, fingerprint, write_split
from models.backbones import Encoder, add_backbone_args, load_encoder
from models.features import cached, extract_features, feature_key
from models.linear_probe import Validation, draw_labelled, fit_linear_probe, milestones
from models.ssl_finetuner import SSLFineTuner
from utils.cli import base_parser, check_base_flags, check_positive, run, trainer_kwargs
from utils.errors import UserError
from utils.evaluation import seeds, summarise
from utils.input_transform import DataSpec, InputTransform, input_transform
from utils.metrics import accuracy_percent, batch_mean, confusion_matrix
from utils.plots import plot_confusion
from utils.report import new_run_dir, write_results


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(__doc__, max_epochs=100, batch_size=32, learning_rate=1e-3)
    add_backbone_args(parser)
    add = parser.add_argument
    add("--num_seeds", type=int, default=3, help="probes; they use --seed, --seed + 1 and so on")
    add("--labels_per_class", type=int, help="train on so many random images per class, not on all")
    add(
        "--split_seed",
        type=int,
        default=0,
        help="seed of the 60/20/20 split, if there are no lists",
    )
    add("--feature_batch_size", type=int, default=128, help="images per step through the encoder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Probe an encoder, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    _check_flags(args)
    seed_everything(args.seed, workers=True, verbose=False)
    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path)
    norm = "paper" if args.protocol == "paper" else "auto"
    transform = input_transform(spec, DataSpec.of_pictures("EuroSAT"), norm)
    dataset = EurosatDataset(args.data_dir)
    splits = dataset.splits(args.split_seed)
    labelled = draw_labelled(
        dataset.labels[splits["train"]], args.labels_per_class, torch.Generator()
    )  # here already, so that a class too small for it is told before anything slow
    images = dataset.read_images(args.num_workers)
    metrics: dict[str, Any] = {f"num_{split}": len(splits[split]) for split in splits}
    metrics |= {"num_labelled": len(labelled), "classes": list(dataset.classes)}
    if args.protocol == "paper":
        metrics |= probe_as_paper(args, encoder, transform, images, dataset, splits)
    else:
        metrics |= probe_features(args, encoder, transform, images, dataset, splits)
    print_table(metrics)
    if not args.debug:
        run_dir = new_run_dir(args.log_dir, f"eurosat-{args.backbone_type}")
        write_split(run_dir, dataset.names, splits)
        if "test/confusion" in metrics:
            plot_confusion(
                run_dir / "confusion.png",
                torch.tensor(metrics["test/confusion"]),
                dataset.classes,
                f"EuroSAT test, {args.backbone_type}: {metrics['test/accuracy']:.1f} %",
            )
        write_results(run_dir / "results.json", args, metrics, started, checkpoint=None)
    return metrics


def probe_features(
    args: Namespace,
    encoder: Encoder,
    transform: InputTransform,
    images: Tensor,
    dataset: EurosatDataset,
    splits: dict[str, Tensor],
) -> dict[str, Any]:
    """Fit the probes on features of the frozen encoder; percentages on val and on test."""
    began = time.perf_counter()
    features, were_cached = _features(args, encoder, transform, images, dataset)
    extracted = time.perf_counter()
    train, val, classes = splits["train"], splits["val"], len(dataset.classes)
    labels = dataset.labels[train]
    probes = fit_linear_probe(
        features[train],
        labels,
        classes,
        seeds=seeds(args),
        rows=[
            draw_labelled(labels, args.labels_per_class, torch.Generator().manual_seed(seed))
            for seed in seeds(args)
        ],
        validation=Validation(features[val], dataset.labels[val], _accuracy),
        max_epochs=args.max_epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
    )
    metrics: dict[str, Any] = {
        "features_were_cached": were_cached,
        "seconds_features": round(extracted - began, 2),
        "seconds_probes": round(time.perf_counter() - extracted, 2),
    }
    for split in ("val", "test"):
        labels = dataset.labels[splits[split]]
        predictions = probes.logits(features[splits[split]]).argmax(-1)
        accuracies = [accuracy_percent(labels, predicted) for predicted in predictions]
        metrics |= summarise(f"{split}/accuracy", accuracies)
    matrices = [
        confusion_matrix(labels, predicted, classes) for predicted in predictions
    ]  # of test
    confusion = torch.stack(matrices).double().mean(0)
    metrics["test/recall"] = {
        name: (100 * row[label] / row.sum()).item()
        for label, (name, row) in enumerate(zip(dataset.classes, confusion, strict=True))
        if row.sum() > 0
    }
    metrics["test/confusion"] = confusion.tolist()
    return metrics


def probe_as_paper(
    args: Namespace,
    encoder: Encoder,
    transform: InputTransform,
    images: Tensor,
    dataset: EurosatDataset,
    splits: dict[str, Tensor],
) -> dict[str, Any]:
    """Train as the original does, see docs/differences.md: a percentage on val alone."""
    accuracies = []
    for seed in seeds(args):
        seed_everything(seed, workers=True, verbose=False)
        labels, generator = dataset.labels, torch.Generator().manual_seed(seed)
        drawn = draw_labelled(labels[splits["train"]], args.labels_per_class, generator)
        loaders = {}
        for split, rows in (("train", splits["train"][drawn]), ("val", splits["val"])):
            if len(rows) < args.batch_size:
                raise UserError(
                    f"--batch_size {args.batch_size} is more than the {len(rows)} {split} images, "
                    "and --protocol paper drops the last batch if it is not full"
                )
            data = TensorDataset(images[rows], labels[rows], torch.arange(len(rows)))
            loaders[split] = DataLoader(data, args.batch_size, split == "train", drop_last=True)
        probe = SSLFineTuner(
            deepcopy(encoder),
            len(dataset.classes),
            normalize=transform.normalize,
            multi_label=False,
            score=partial(batch_mean, _accuracy, batch_size=args.batch_size),
            learning_rate=args.learning_rate,
            milestones=milestones(args.max_epochs),
            freeze_backbone=True,
        )
        trainer = Trainer(
            **trainer_kwargs(args),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(probe, loaders["train"], loaders["val"])
        accuracies.append(trainer.callback_metrics["val/score"].item())
    return summarise("val/accuracy_batch_mean", accuracies)


def print_table(metrics: dict[str, Any]) -> None:
    """Print one line per accuracy, and the recall of every class where it was measured."""
    for name in ("val/accuracy", "test/accuracy", "val/accuracy_batch_mean"):
        if name in metrics:
            std = metrics[f"{name}_std"]
            spread = "" if std is None else f" +- {std:.2f}"
            raw = " ".join(f"{value:.2f}" for value in metrics[f"{name}_per_seed"])
            print(f"{name:24s}{metrics[name]:6.2f}{spread} %  ({raw})")
    for name, recall in metrics.get("test/recall", {}).items():
        print(f"  recall {name:22s}{recall:6.2f} %")


def _check_flags(args: Namespace) -> None:
    """Refuse flags that cannot be met, before anything is read."""
    check_base_flags(args)
    if args.gpus > 1:
        raise UserError(f"--gpus {args.gpus}: probes run on one device, use --gpus 1")
    if args.resume_from_checkpoint is not None:
        raise UserError("--resume_from_checkpoint: probes write no checkpoint, leave it out")
    check_positive(args, "num_seeds", "labels_per_class", "feature_batch_size")


def _features(
    args: Namespace,
    encoder: Encoder,
    transform: InputTransform,
    images: Tensor,
    dataset: EurosatDataset,
) -> tuple[Tensor, bool]:
    """Return the features of all images, (N, D), and whether an earlier run computed them."""

    def compute() -> Tensor:
        return extract_features(
            encoder,
            transform,
            images.split(args.feature_batch_size),
            len(images),
            device=torch.device("cuda" if args.gpus else "cpu"),
            precision=args.precision,
        )

    if args.debug:
        return compute(), False
    key = feature_key(encoder, transform, fingerprint(dataset.names, images), args.precision)
    path = args.log_dir / "features" / f"{key}.npy"
    were_cached = path.exists()
    return cached(path, compute), were_cached


def _accuracy(labels: Tensor, logits: Tensor) -> float:
    """Return the accuracy of the most likely classes in percent."""
    return accuracy_percent(labels, logits.argmax(-1))


if __name__ == "__main__":
    run(main)
