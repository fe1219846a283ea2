"""Train a classifier through an encoder once per repetition, with checkpoints to resume from.

Shapes: N pictures of a set, S repetitions, C classes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler

from models.backbones import Encoder
from models.linear_probe import Recipe
from models.probes import Predictions
from models.ssl_finetuner import SSLFineTuner
from utils.checkpoint import (
    WholeCheckpointIO,
    check_not_shorter,
    check_same_run,
    read_checkpoint,
)
from utils.data import InfiniteDataLoader, SeededOrder, SeededSampler, batches_done, epoch_of
from utils.errors import UserError
from utils.probe_data import ProbeData
from utils.restored import fit
from utils.resume import newest_resumable


@dataclass(frozen=True)
class FineTuning:
    """Trains a classifier on a copy of the encoder, and the copy unless it is frozen.

    ``make_trainer`` returns the Lightning trainer of a repetition; it takes the number of epochs,
    the folder to write into or None, ``seed`` and ``train_frac``.
    """

    encoder: Encoder  # none of its tensors changes
    data: ProbeData  # labelled splits
    seeds: Sequence[int]  # of classifier, order and dropout of each repetition
    recipe: Recipe  # how a repetition is trained
    make_trainer: Callable[..., Trainer]
    # Returns the features of the last held-out set, for the first repetition's encoder.
    embed: Callable[[Encoder], Tensor] | None = None
    # Plain values that a run must share with one that it resumes.
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    resumed: Path | None = None  # checkpoint to resume, of the only repetition
    resumes_each: bool = False  # whether each repetition resumes the checkpoints of its folder

    @property
    def held_out(self) -> list[str]:
        """Splits to score; what trains through a frozen encoder is the original's, without test."""
        return ["val"] if self.recipe.freeze_backbone else self.data.held_out

    def check_resumable(self, draws: Mapping[float, Sequence[Tensor]]) -> None:
        """Refuse to resume another run than that of the first share and seed."""
        if self.resumed is None:
            return
        frac, rows = next(iter(draws.items()))
        own = self._classifier(self.seeds[0], rows[0], frac, self.resumed).hparams
        check_same_run(self.resumed, own, self.recipe.max_epochs, "finetune_epochs")
        if own["milestones"] != self.recipe.falls:
            epochs = " and ".join(f"epoch {epoch}" for epoch in sorted(set(own["milestones"])))
            print(f"the learning rate falls after {epochs}, as in the first start", file=sys.stderr)

    def __call__(
        self, rows: Sequence[Tensor], frac: float = 1.0, folder: Path | None = None
    ) -> Predictions:
        """Train and score.

        Args:
            rows: Labelled rows of the train split for each repetition.
            frac: Their share of all labels.
            folder: Folder in which each repetition has a folder ``seed=S``; None writes nothing.
        """
        recipe, checkpoints = self.recipe, []
        scores: dict[str, list[Tensor]] = {split: [] for split in self.held_out}
        epochs: list[float] = []
        embeddings: Tensor | None = None
        for seed, chosen in zip(self.seeds, rows, strict=True):
            own_folder = folder and folder / f"seed={seed}"
            resumed = self._newest(seed, chosen, frac, own_folder)
            module = self._classifier(seed, chosen, frac, resumed)
            trainer = self.make_trainer(
                *(recipe.max_epochs, own_folder),
                seed=seed,
                train_frac=frac,
                resumed=resumed,
                is_resumable=recipe.seeded_order,
            )
            for split, logits in self._train(trainer, module, chosen, resumed).items():
                scores[split].append(logits)
            if own_folder is not None:
                name = "best.ckpt" if recipe.select_epoch else "last.ckpt"
                checkpoints.append(own_folder / "checkpoints" / name)
                if recipe.select_epoch and trainer.is_global_zero:
                    _save_best(module, checkpoints[-1])
            epochs.append(module.best.epoch if recipe.select_epoch else recipe.max_epochs)
            if self.embed is not None and embeddings is None:
                embeddings = self.embed(module.encoder_q)
        stacked = {split: torch.stack(logits) for split, logits in scores.items()}
        first = checkpoints[0] if checkpoints else None
        return Predictions(stacked, {"best_epochs": epochs}, embeddings, checkpoint=first)

    def _newest(self, seed: int, rows: Tensor, frac: float, folder: Path | None) -> Path | None:
        """Return the checkpoint that a repetition resumes; a finished one is only scored again."""
        if not self.resumes_each or folder is None:
            return self.resumed

        def check(path: Path) -> None:
            check_same_run(path, self._classifier(seed, rows, frac, path).hparams, None)

        found = newest_resumable(folder / "checkpoints", check)
        if found is not None:
            check_not_shorter(found, self.recipe.max_epochs, "finetune_epochs")
        return found

    def _classifier(
        self, seed: int, rows: Tensor, frac: float, resumed: Path | None
    ) -> SSLFineTuner:
        """Put a new classifier on a copy of the encoder, and seed the generators."""
        seed_everything(seed, verbose=False)
        recipe, data, milestones = self.recipe, self.data, self.recipe.falls
        if resumed is not None and recipe.milestones is None:
            # Those of the run's first number of epochs, so that it can be extended.
            saved = read_checkpoint(resumed)["hyper_parameters"]
            milestones = saved.get("milestones", milestones)
            if not isinstance(milestones, list) or {type(epoch) for epoch in milestones} - {int}:
                raise UserError(f"{resumed} has no milestones: use the last.ckpt of its run")
        encoder = deepcopy(self.encoder).train()
        if not recipe.freeze_backbone:
            # Faster; and the same in all processes, though only the first has computed features.
            encoder.to(memory_format=torch.channels_last)
        of_run = {
            "train_frac": frac,
            "num_labelled": len(rows),
            "classes": list(data.classes),
            "input_spec": data.transform.spec.to_dict(),
            "input_transform": data.transform.fingerprint(),
        }
        return SSLFineTuner(
            encoder,
            len(data.classes),
            normalize=data.transform.normalize,
            multi_label=data.is_multi_label,
            score=data.score,
            learning_rate=recipe.learning_rate,
            seed=seed,
            hyper_parameters={**self.hyper_parameters, **of_run},
            milestones=milestones,
            dropout=recipe.dropout,
            freeze_backbone=recipe.freeze_backbone,
            encoder_in_train_mode=recipe.encoder_in_train_mode,
        )

    def _train(
        self, trainer: Trainer, module: SSLFineTuner, rows: Tensor, resumed: Path | None
    ) -> dict[str, Tensor]:
        """Return the logits of the held-out splits, (N, C), by the epoch that the recipe keeps."""
        splits, held_out = self.data.splits, {}
        train = self._train_loader(trainer, splits["train"].take(rows), module.seed)
        for split in self.held_out:
            pictures = splits[split].take()
            # It repeats some rows, so that all processes have as many.
            share: DistributedSampler[Any] = DistributedSampler(
                pictures, trainer.world_size, trainer.global_rank, shuffle=False
            )
            held_out[split] = self._loader(pictures, share)
        fit(trainer, module, train, held_out["val"], resumed=resumed)
        if self.recipe.select_epoch:
            module.load_state_dict(module.best.state)
        logits = {}
        for split, loader in held_out.items():
            trainer.test(module, loader, verbose=False)
            logits[split] = module.test_logits
        return logits

    def _train_loader(self, trainer: Trainer, data: Dataset[Any], seed: int) -> DataLoader[Any]:
        """Load this process's share of an order that is a function of (seed, epoch)."""
        recipe, count = self.recipe, len(data)  # type: ignore[arg-type]  # has no __len__
        rank, size = trainer.global_rank, trainer.world_size
        keys = SeededSampler(
            *(count, seed),
            epoch=lambda: epoch_of(trainer),
            done=lambda: batches_done(trainer) * recipe.batch_size,
            rank=rank,
            world_size=size,
        )
        order = SeededOrder(keys) if recipe.seeded_order else RandomSampler(data)  # type: ignore[arg-type]
        # Batch norm cannot normalise a batch of one picture.
        loader = self._loader(data, order, recipe.drop_last or len(keys) % recipe.batch_size == 1)
        if not len(loader):
            raise UserError(
                f"{count} labelled pictures are too few for {size} processes and batches of "
                f"{recipe.batch_size}: use more labels, or one process and smaller batches"
            )
        return loader

    def _loader(
        self, data: Dataset[Any], sampler: Sampler[Any], drop_last: bool = False
    ) -> DataLoader[Any]:
        return InfiniteDataLoader(
            data,
            self.recipe.batch_size,
            sampler=sampler,
            num_workers=self.data.num_workers,
            drop_last=drop_last,
        )


def _save_best(module: SSLFineTuner, path: Path) -> None:
    """Write a module that has the weights of its best epoch."""
    described = {**module.hparams, "best_epoch": module.best.epoch}
    content = {"hyper_parameters": described, "state_dict": module.state_dict()}
    WholeCheckpointIO().save_checkpoint(content, path)
