r"""Train change detectors on OSCD (Daudt et al. 2018), by default on a frozen encoder.

python main_oscd.py --data_dir data/oscd \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt

Everything as the original does it, its scores included:

python main_oscd.py --data_dir data/oscd --protocol paper \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.probe_args import add_detector_args, check_detector_flags
from utils.cli import base_parser, check_base_flags, run, trainer_kwargs
from utils.encoder_args import add_encoder_args, check_encoder_flags
from utils.errors import UserError
from utils.evaluation import (
    add_evaluation_args,
    check_evaluation_flags,
    check_resume_flag,
    curve_points,
    input_norm,
    print_finished,
    seeds,
    summarise,
)
from utils.input_spec import InputTransform, input_transform
from utils.launch import check_alone, resolve_gpus
from utils.precision import resolve_precision
from utils.report import new_run_dir, provenance, save_results, share_dir, write_results
from utils.resume import with_flags_of_run

# torch and Lightning take seconds to import: whatever needs them is imported by the function that
# uses it, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    from torch import Tensor

    from datasets.oscd.files import City
    from datasets.oscd_datamodule import ChangeDetectionDataModule
    from models.backbones import Encoder
    from models.change_detector import ChangeDetector


@dataclass(frozen=True)
class Experiment:
    """What all repetitions share.

    Attributes:
        args: Flags.
        encoder: To be copied.
        transform: From stored values to its inputs.
        cities: To train on, to validate and to test.
        hyper_parameters: For checkpoints, so that only the same run continues them.
    """

    args: Namespace
    encoder: Encoder
    transform: InputTransform
    cities: dict[str, list[City]]
    hyper_parameters: dict[str, Any]

    @property
    def is_paper(self) -> bool:
        """Whether the choices of the original are restored."""
        return self.args.protocol == "paper"


@dataclass(frozen=True)
class Outcome:
    """What one detector found.

    Attributes:
        threshold: Probability from which on a pixel counts as changed.
        validation: Scores of the detector on the validation set.
        probabilities: Of change in every test city, float32, (H, W) each.
        counts: Pixels found, false and missed in every test city, int64, (cities, 3).
    """

    threshold: float
    validation: dict[str, float]
    probabilities: list[Tensor]
    counts: Tensor


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(__doc__, max_epochs=100, batch_size=32, learning_rate=1e-3)
    add_encoder_args(parser)
    add_evaluation_args(parser)
    add_detector_args(parser)
    return parser.parse_args(with_flags_of_run(parser, argv, ["save_predictions"]))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and test the detectors, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    _check_flags(args)
    experiment = prepare(args)
    from datasets.oscd.maps import save_probabilities, write_maps
    from utils.change_scores import print_results
    from utils.plots import plot_label_curve

    run_dir = None if args.debug else new_run_dir(args.log_dir, f"oscd-{args.backbone_type}")
    results: dict[str, dict[str, Any]] = {}
    for frac in sorted(args.train_frac):  # the largest share is the last, and the one reported
        folder = share_dir(run_dir, frac, len(args.train_frac))
        outcomes = [
            repeat(experiment, seed, frac, folder and folder / f"seed={seed}")
            for seed in seeds(args)
        ]
        results[f"{frac:g}"] = result = summarise_outcomes(experiment, outcomes)
        metrics = record(experiment, results)
        print_finished(f"{100 * frac:g} % of the tiles", result)
        save_results(run_dir, args, metrics, started)
    print_results(metrics)
    maps = (experiment.cities["test"], outcomes[0].probabilities, outcomes[0].threshold)
    if args.save_predictions is not None:
        save_probabilities(args.save_predictions, *maps)
    if run_dir is not None and folder is not None:
        write_maps(run_dir / "maps", *maps, experiment.transform.bands)
        if len(results) > 1:
            curves = {args.backbone_type: curve_points(results, "test/f1")}
            plot_label_curve(run_dir / "label_efficiency.png", curves, "test/f1 in percent")
        name = "last.ckpt" if experiment.is_paper else "best.ckpt"
        checkpoint = folder / f"seed={args.seed}" / name
        write_results(run_dir / "results.json", args, metrics, started, checkpoint)
    return metrics


def record(experiment: Experiment, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the results of all shares so far, those of the largest one on top."""
    metrics = {f"num_{split}_cities": len(each) for split, each in experiment.cities.items()}
    metrics |= {"pos_weight": experiment.hyper_parameters["pos_weight"]}
    return metrics | list(results.values())[-1] | {"by_train_frac": results}


def prepare(args: Namespace) -> Experiment:
    """Read encoder and cities, and refuse what cannot work before anything is written."""
    from pytorch_lightning import seed_everything

    from datasets.oscd_dataset import OSCD_DATA, city_splits, read_cities, unchanged_per_changed
    from models.backbones import load_encoder
    from utils.checkpoint import check_same_run

    resolve_gpus(args)
    check_alone("OSCD")
    resolve_precision(args)
    seed_everything(args.seed, verbose=False)
    encoder, spec = load_encoder(
        args.backbone_type, args.base_encoder, args.ckpt_path, bands=args.bands
    )
    transform = input_transform(spec, OSCD_DATA, input_norm(args))
    is_paper = args.protocol == "paper"
    cities = {
        split: read_cities(args.data_dir, names, transform, aligned=not is_paper)
        for split, names in city_splits(args.data_dir).items()
    }
    if is_paper:  # all training cities are trained on, and the test cities validated
        cities |= {"train": cities["train"] + cities["val"], "val": cities["test"]}
    ratios = {split: unchanged_per_changed(cities[split]) for split in cities}
    flags = ("protocol", "backbone_type", "learning_rate", "batch_size", "patch_size")
    hyper_parameters = {name: getattr(args, name) for name in flags} | {
        "pos_weight": _pos_weight(args, ratios["train"]),
        "finetune_backbone": args.finetune_backbone,
        "encoder_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "input_spec": spec.to_dict(),
        "input_transform": transform.fingerprint(),
        "train_cities": [city.name for city in cities["train"]],
    }
    experiment = Experiment(args, encoder, transform, cities, hyper_parameters)
    load_data(experiment, args.seed, min(args.train_frac))
    if args.resume_from_checkpoint is not None:
        own = build_detector(experiment, args.seed, args.train_frac[0]).hparams
        check_same_run(args.resume_from_checkpoint, own, args.max_epochs)
    return experiment


def load_data(experiment: Experiment, seed: int, frac: float) -> ChangeDetectionDataModule:
    """Cut a share of the training cities into tiles, and choose what to validate on."""
    from datasets.oscd_datamodule import ChangeDetectionDataModule

    args = experiment.args
    return ChangeDetectionDataModule(
        experiment.cities["train"],
        experiment.cities["val"],
        patch_size=args.patch_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        seed=seed,
        train_frac=frac,
        only_full_batches=experiment.is_paper,
    )


def build_detector(experiment: Experiment, seed: int, frac: float) -> ChangeDetector:
    """Put a new decoder on a copy of the encoder."""
    from pytorch_lightning import seed_everything

    from models.change_detector import ChangeDetector
    from models.segmentation import LEVELS, LEVELS_OF_THE_ORIGINAL

    args, is_paper = experiment.args, experiment.is_paper
    seed_everything(seed, verbose=False)
    return ChangeDetector(
        deepcopy(experiment.encoder),
        normalize=experiment.transform.normalize,
        hyper_parameters=experiment.hyper_parameters | {"seed": seed, "train_frac": frac},
        seed=seed,
        learning_rate=args.learning_rate,
        pos_weight=experiment.hyper_parameters["pos_weight"],
        levels=LEVELS_OF_THE_ORIGINAL if is_paper else LEVELS,
        finetune_backbone=args.finetune_backbone,
        encoder_in_train_mode=is_paper or args.finetune_backbone,
        mean_over_batches=is_paper,
    )


def repeat(experiment: Experiment, seed: int, frac: float, folder: Path | None) -> Outcome:
    """Train a detector and find the changes of the test cities; checkpoints go to the folder."""
    import torch

    from datasets.oscd_dataset import WholeCities
    from models.change_runs import fit_detector, predict_changes
    from utils.change_scores import THRESHOLDS, count_changes
    from utils.training import of_repetition

    args, cities = experiment.args, WholeCities(experiment.cities["test"])
    detector = build_detector(experiment, seed, frac)
    validation = fit_detector(
        detector,
        load_data(experiment, seed, frac),
        trainer_kwargs(args),
        folder=folder,
        origin=provenance(of_repetition(args, seed, frac)),
        ckpt_path=args.resume_from_checkpoint,
    )
    samples = [cities[index] for index in range(len(cities))]
    probabilities = predict_changes(
        detector,
        [sample[:2] for sample in samples],
        device=torch.device("cuda" if args.gpus else "cpu"),
        precision=args.precision,
    )
    column = THRESHOLDS.index(detector.threshold)
    counts = [
        count_changes(probability.flatten(), mask.flatten())[:, column]
        for probability, (_, _, mask, _) in zip(probabilities, samples, strict=True)
    ]
    return Outcome(detector.threshold, validation, probabilities, torch.stack(counts))


def summarise_outcomes(experiment: Experiment, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return validation and test scores of all seeds."""
    import torch

    from utils.change_scores import summarise_cities

    metrics: dict[str, Any] = {}
    for name in outcomes[0].validation:
        metrics |= summarise(name, [outcome.validation[name] for outcome in outcomes])
    counts = torch.stack([outcome.counts for outcome in outcomes])
    names = [city.name for city in experiment.cities["test"]]
    return metrics | summarise_cities(counts, names, experiment.args.seed)


def _check_flags(args: Namespace) -> None:
    """Refuse flags that cannot be met, before anything is read."""
    check_base_flags(args)
    check_encoder_flags(args)
    check_evaluation_flags(args)
    check_detector_flags(args)
    if args.val_frac != 1:
        raise UserError("--val_frac: the cities to validate on are few, leave it out")
    if args.save_predictions is not None and args.save_predictions.suffix != ".npz":
        raise UserError(f"--save_predictions {args.save_predictions}: maps are written as .npz")
    check_resume_flag(args, writes_checkpoints=True)


def _pos_weight(args: Namespace, ratio: float) -> float:
    """Return the weight of changed pixels, of which there is one to ``ratio`` unchanged ones."""
    default = 1.0 if args.protocol == "paper" else "auto"
    chosen = args.pos_weight or default
    return ratio if chosen == "auto" else float(chosen)


if __name__ == "__main__":
    run(main)
