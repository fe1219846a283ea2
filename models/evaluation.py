"""Evaluate an encoder: run every method on every share of the labels, and write the results."""

import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backbones import Encoder
from models.evaluation_args import NEIGHBOURS, seeds
from models.features import read_features
from models.finetuning import FineTuning
from models.linear_probe import Labelled, Recipe
from models.probes import (
    Method,
    Predictions,
    probe_by_adam,
    probe_by_lbfgs,
    vote_of_neighbours,
)
from models.result_views import (
    print_finished,
    print_results,
    save_predictions,
    write_errors,
    write_pictures,
)
from models.results import measure, measure_batches
from models.run_report.writing import report_run
from utils.launch import World
from utils.locks import sole_run
from utils.probe_data import ProbeData
from utils.report import save_results, share_dir, write_results
from utils.resume import evaluation_run_dir
from utils.training import make_trainer


@dataclass(frozen=True)
class Evaluation:
    """One run of an evaluation script.

    A linear layer is trained on features, but with ``linear.freeze_backbone`` through the encoder,
    and then scored on val alone.
    """

    args: Namespace  # flags of the run
    world: World  # processes that fine-tune together
    encoder: Encoder  # none of its tensors changes
    data: ProbeData  # labelled splits
    # For each share of the labels, rising, the labelled rows of train, once per repetition.
    draws: Mapping[float, Sequence[Tensor]]
    linear: Recipe  # of --method linear
    finetune: Recipe  # of --method finetune
    name: str  # of the data set in pictures
    folder: str  # name of the folder of such runs
    described: Sequence[str]  # flags that describe a fine-tuning in its checkpoints
    facts: Mapping[str, Any] = field(default_factory=dict)  # further results, plain values

    def run(self, started: float) -> tuple[dict[str, Any], Path | None]:
        """Evaluate, and write results after every step, because a later one may be interrupted.

        Args:
            started: ``time.perf_counter()`` at the start of the script.

        Returns:
            The metrics, and the folder that was written, in the first process only.
        """
        methods, facts = self._methods()
        facts = {**facts, "data": self.data.describe()} if self.world.rank == 0 else facts
        run_dir = evaluation_run_dir(self.args, self.folder, self.world.rank)
        with sole_run(run_dir if self.world.rank == 0 else None):
            metrics = self._run(methods, facts, started, run_dir)
        return metrics, None if self.world.rank > 0 else run_dir

    def _run(
        self,
        methods: Mapping[str, Method],
        facts: Mapping[str, Any],
        started: float,
        run_dir: Path | None,
    ) -> dict[str, Any]:
        args = self.args
        results: dict[str, dict[str, Any]] = {}
        metrics: dict[str, Any] = {}
        predictions: dict[str, Predictions] = {}  # of the largest share, which comes last
        for name, method in methods.items():
            for frac, rows in self.draws.items():
                began = time.perf_counter()
                of_run = {"frac": frac, "folder": share_dir(run_dir, frac, len(self.draws))}
                predictions[name] = method(rows, **(of_run if name == "finetune" else {}))
                seconds = round(time.perf_counter() - began, 2)
                if self.world.rank == 0:
                    result = self._measure(predictions[name])
                    result |= {"num_labelled": len(rows[0]), "seconds_training": seconds}
                    results.setdefault(name, {})[f"{frac:g}"] = result
                    metrics = {**facts, **self._record(results)}
                    print_finished(f"{name}, {len(rows[0]):,} labels", result)
                    save_results(run_dir, args, metrics, started)
        if self.world.rank == 0:
            self._report(metrics, predictions[metrics["method"]], started, run_dir)
        return metrics

    def _methods(self) -> tuple[dict[str, Method], dict[str, Any]]:
        """Return the requested methods by name, and the cost of their features."""
        args, each, score = self.args, seeds(self.args), self.data.score
        methods: dict[str, Method] = {}
        cost: dict[str, Any] = {}
        if self.linear.freeze_backbone:
            trainer = partial(make_trainer, args, World(), "linear layer")
            methods["linear"] = FineTuning(self.encoder, self.data, each, self.linear, trainer)
        elif set(args.method) != {"finetune"} and self.world.rank == 0:
            features, cost = self._features()
            shared = (features, len(self.data.classes))
            adam = partial(probe_by_adam, seeds=each, recipe=self.linear, score=score)
            methods["linear"] = partial(adam, *shared)
            methods["lbfgs"] = partial(probe_by_lbfgs, *shared, score=score)
            methods |= {f"knn{k}": partial(vote_of_neighbours, *shared, k=k) for k in NEIGHBOURS}
        if "finetune" in args.method:
            methods["finetune"] = tuning = self._finetuning()
            tuning.check_resumable(self.draws)
        requested = tuple(args.method)
        return {name: m for name, m in methods.items() if name.startswith(requested)}, cost

    def _features(self) -> tuple[dict[str, Labelled], dict[str, Any]]:
        """Return features and targets of every split, and their cost.

        Of train, only the labelled rows are computed, unless all are needed to standardise.
        """
        began = time.perf_counter()
        cache_dir = None if self.args.debug else self.args.log_dir / "features"
        features, were_cached = {}, True
        for split, targets in self.data.targets.items():
            rows = torch.arange(len(targets))
            if split == "train" and self.linear.standardise != "train":
                rows = torch.cat([rows for draw in self.draws.values() for rows in draw]).unique()
            where = {"split": split, "rows": rows, "cache_dir": cache_dir}
            found, was_cached = self._read(self.encoder, **where)
            if len(rows) < len(targets):  # a row that is not written takes no memory
                found = torch.empty(len(targets), found.shape[1]).index_copy_(0, rows, found)
            features[split] = Labelled(found, targets)
            were_cached = were_cached and was_cached
        seconds = round(time.perf_counter() - began, 2)
        return features, {"features_were_cached": were_cached, "seconds_features": seconds}

    @property
    def _read(self) -> Callable[..., tuple[Tensor, bool]]:
        device = torch.device("cuda" if self.args.gpus else "cpu")
        settings = {"batch_size": self.args.feature_batch_size, "precision": self.args.precision}
        return partial(read_features, data=self.data, device=device, **settings)

    def _finetuning(self) -> FineTuning:
        args, data, recipe = self.args, self.data, self.finetune
        # Only the fine-tuning writes checkpoints, whose flags resume it alone.
        alone = Namespace(**vars(args) | {"method": ["finetune"]})
        every = recipe.val_every_n_epochs

        def embed(tuned: Encoder) -> Tensor:
            return self._read(tuned, split=data.held_out[-1])[0]

        return FineTuning(
            self.encoder,
            data,
            seeds(args),
            recipe,
            partial(make_trainer, alone, self.world, "fine-tuning", val_every_n_epochs=every),
            embed=embed if args.save_predictions is not None and self.world.rank == 0 else None,
            hyper_parameters={name: getattr(args, name) for name in self.described}
            | {"samples_per_step": recipe.batch_size * self.world.size},
            resumed=args.resume_from_checkpoint,
            resumes_each=args.resume == "auto",
        )

    def _measure(self, predictions: Predictions) -> dict[str, Any]:
        """Return the metrics on val and test, or the original's mean over batches of val."""
        args, targets, scores = self.args, self.data.targets, predictions.scores
        if args.protocol == "paper":
            return measure_batches(targets["val"], scores["val"], args.batch_size)
        return measure(targets, scores, self.data.classes, args.seed) | predictions.chosen

    def _record(self, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return all results so far, with those of the first method's largest share on top."""
        main = self.args.method[0]
        method = next((name for name in results if name.startswith(main)), next(iter(results)))
        data, shares = self.data, results[method]
        counts = {f"num_{split}": len(targets) for split, targets in data.targets.items()}
        record = counts | dict(self.facts) | {"classes": list(data.classes), "method": method}
        spec = data.transform.spec
        record["encoder"] = {
            "base_encoder": self.encoder.architecture,
            "bands": list(spec.bands),
        }
        return record | list(shares.values())[-1] | {"by_method": results, "by_train_frac": shares}

    def _report(
        self, metrics: dict[str, Any], shown: Predictions, started: float, run_dir: Path | None
    ) -> None:
        """Print the results, and write the files that the flags request."""
        args, data = self.args, self.data
        print_results(metrics)
        split = [split for split in data.held_out if split in shown.scores][-1]
        targets, scores = data.targets[split], shown.scores[split][0]
        if args.save_predictions is not None:
            names = data.splits[split].names
            save_predictions(args.save_predictions, names, targets, scores, shown.embeddings)
        if run_dir is not None:
            write_pictures(run_dir, metrics, f"{self.name}, {args.backbone_type}")
            write_errors(run_dir, data, split, scores)
            save_results(run_dir, args, metrics, started, finished=True)
            if not args.no_report:
                report_run(run_dir, {})
            write_results(run_dir / "results.json", args, metrics, started, shown.checkpoint)
