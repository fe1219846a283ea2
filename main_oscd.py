r"""Train change detectors on OSCD (Daudt et al. 2018), by default on a frozen encoder.

python main_oscd.py --data_dir data/oscd \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt

Everything as in the original, including its scores:

python main_oscd.py --data_dir data/oscd --protocol paper \
  --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.oscd.facts import OSCD_DATA
from models import evaluation_args as flags
from utils.cli import run
from utils.input_spec import InputTransform, input_transform
from utils.launch import check_alone, resolve_gpus
from utils.locks import sole_run
from utils.precision import resolve_precision
from utils.report import save_results, share_dir, write_results
from utils.resume import evaluation_run_dir, with_flags_of_run

# torch and Lightning take seconds to import: functions import them, so that --help and wrong flags
# are answered at once.
if TYPE_CHECKING:
    from datasets.oscd.tiles import CitySplits
    from models.change_runs import ChangeTask


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = flags.evaluation_parser(__doc__, batch_size=32, learning_rate=1e-3)
    flags.add_detector_args(parser)
    return parser.parse_args(with_flags_of_run(parser, argv, ["save_predictions"], "oscd-*"))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and test the detectors, write the run's folder and return the metrics."""
    started = time.perf_counter()
    args = parse_args(argv)
    flags.check_detector_flags(args)
    prepared = prepare(args)
    run_dir = evaluation_run_dir(args, f"oscd-{args.backbone_type}", rank=0)
    with sole_run(run_dir):
        return evaluate(args, *prepared, run_dir, started)


def evaluate(
    args: Namespace,
    task: ChangeTask,
    data: CitySplits,
    transform: InputTransform,
    run_dir: Path | None,
    started: float,
) -> dict[str, Any]:
    """Train and test every repetition, and return the metrics."""
    from datasets.oscd.maps import save_probabilities, write_maps
    from datasets.oscd.tiles import WholeCities
    from models.change_runs import summarise_outcomes
    from models.change_scores import print_results
    from models.result_views import print_finished, write_curve
    from models.run_report.writing import report_run

    cities = data.cities["test"]
    whole = WholeCities(cities)
    test = [whole[number] for number in range(len(whole))]
    shared: dict[str, Any] = {f"num_{s}_cities": len(each) for s, each in data.cities.items()}
    shared["pos_weight"] = task.hyper_parameters["pos_weight"]
    shared["data"] = data.describe()
    # As in the other evaluations: the report's random encoder has the same architecture and bands.
    bands = list(transform.bands)
    shared["encoder"] = {"base_encoder": task.encoder.architecture, "bands": bands}
    results: dict[str, dict[str, Any]] = {}
    for frac in sorted(args.train_frac):  # the largest share is the last, and the one reported
        folder = share_dir(run_dir, frac, len(args.train_frac))
        outcomes = []
        for seed in flags.seeds(args):
            train, val = data.samples(args.patch_size, seed, frac)
            own_folder = folder and folder / f"seed={seed}"
            outcomes.append(task.run(seed, frac, train, val, test, own_folder))
        result = summarise_outcomes(outcomes, [city.name for city in cities], args.seed)
        results[f"{frac:g}"] = result
        metrics = shared | result | {"by_train_frac": results}
        print_finished(f"{100 * frac:g} % of the tiles", result)
        save_results(run_dir, args, metrics, started)
    print_results(metrics)
    found = (outcomes[0].probabilities, outcomes[0].threshold)
    if args.save_predictions is not None:
        save_probabilities(args.save_predictions, cities, *found)
    if run_dir is not None and folder is not None:
        write_maps(run_dir / "maps", cities, *found, transform.channels)
        curve = {args.backbone_type: results}
        write_curve(run_dir, curve, ["test/f1"], "test/f1 in percent")
        name = "last.ckpt" if task.as_original else "best.ckpt"
        checkpoint = folder / f"seed={args.seed}" / name
        save_results(run_dir, args, metrics, started, finished=True)
        if not args.no_report:
            report_run(run_dir, {})
        write_results(run_dir / "results.json", args, metrics, started, checkpoint)
    return metrics


def prepare(args: Namespace) -> tuple[ChangeTask, CitySplits, InputTransform]:
    """Read encoder and cities, and refuse what cannot work before anything is written."""
    from pytorch_lightning import seed_everything

    from datasets.oscd.tiles import read_splits, unchanged_per_changed
    from models.backbones import load_encoder
    from models.change_runs import ChangeTask

    resolve_gpus(args)
    check_alone("OSCD")
    resolve_precision(args)
    seed_everything(args.seed, verbose=False)
    as_original = args.protocol == "paper"
    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path, args.bands)
    transform = input_transform(spec, OSCD_DATA, flags.input_norm(args))
    data = read_splits(args.data_dir, transform, as_original=as_original)
    ratios = {split: unchanged_per_changed(cities) for split, cities in data.cities.items()}
    pos_weight = args.pos_weight or (1.0 if as_original else "auto")
    described = ("protocol", "backbone_type", "learning_rate", "batch_size", "patch_size")
    hyper_parameters = {name: getattr(args, name) for name in described} | {
        "pos_weight": ratios["train"] if pos_weight == "auto" else float(pos_weight),
        "finetune_backbone": args.finetune_backbone,
        "encoder_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "input_spec": spec.to_dict(),
        "input_transform": transform.fingerprint(),
        "train_cities": [city.name for city in data.cities["train"]],
    }
    train, val = data.samples(args.patch_size, args.seed, min(args.train_frac))
    flags.check_counts(args, {"train": len(train), "val": len(val)})
    task = ChangeTask(args, encoder, transform.normalize, hyper_parameters)
    task.check_resumable()
    return task, data, transform


if __name__ == "__main__":
    run(main)
