"""Train a classifier through an encoder once per repetition, with checkpoints to resume from.

Shapes: N pictures, S repetitions, C classes.
"""

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
from models.probe_task import ProbeTask, Recipe
from models.probes import Predictions
from models.ssl_finetuner import SSLFineTuner
from utils.checkpoint import WholeCheckpointIO, check_same_run
from utils.data import SeededOrder, SeededSampler, epoch_of
from utils.errors import UserError


@dataclass(frozen=True)
class FineTuning:
    """Trains a classifier on a copy of the encoder, and the copy unless it is frozen.

    Attributes:
        task: Encoder and data.
        seeds: Seed of classifier, order and dropout of each repetition.
        recipe: How it is trained.
        make_trainer: Returns the Lightning trainer of a repetition; takes the number of epochs, the
            folder to write into or None, ``seed`` and ``train_frac``.
        held_out: Splits to score.
        embed: Returns the features of the last held-out set, for the first repetition's encoder.
        hyper_parameters: Plain values that a run must share with one that it resumes.
        resumed: Checkpoint of the run to resume.
    """

    task: ProbeTask
    seeds: Sequence[int]
    recipe: Recipe
    make_trainer: Callable[..., Trainer]
    held_out: Sequence[str] = ("val", "test")
    embed: Callable[[Encoder], Tensor] | None = None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    resumed: Path | None = None

    def check_resumable(self, draws: Mapping[float, Sequence[Tensor]]) -> None:
        """Refuse to resume another run than that of the first share and seed."""
        if self.resumed is not None:
            frac, rows = next(iter(draws.items()))
            own = self._classifier(self.seeds[0], rows[0], frac).hparams
            check_same_run(self.resumed, own, self.recipe.max_epochs, "finetune_epochs")

    def __call__(
        self, rows: Sequence[Tensor], frac: float = 1.0, folder: Path | None = None
    ) -> Predictions:
        """Train and score.

        Args:
            rows: Labelled rows of the train split for each repetition.
            frac: Their share of all labels.
            folder: Folder in which each repetition has a folder ``seed=S``; None writes nothing.
        """
        recipe = self.recipe
        scores: dict[str, list[Tensor]] = {split: [] for split in self.held_out}
        epochs: list[float] = []
        embeddings: Tensor | None = None
        for seed, chosen in zip(self.seeds, rows, strict=True):
            module = self._classifier(seed, chosen, frac)
            own_folder = folder and folder / f"seed={seed}"
            trainer = self.make_trainer(recipe.max_epochs, own_folder, seed=seed, train_frac=frac)
            for split, logits in self._train(trainer, module, chosen).items():
                scores[split].append(logits)
            if own_folder is not None and recipe.select_epoch and trainer.is_global_zero:
                save_best(module, own_folder / "checkpoints" / "best.ckpt")
            epochs.append(module.best.epoch if recipe.select_epoch else recipe.max_epochs)
            if self.embed is not None and embeddings is None:
                embeddings = self.embed(module.encoder_q)
        stacked = {split: torch.stack(logits) for split, logits in scores.items()}
        name = "best.ckpt" if recipe.select_epoch else "last.ckpt"
        first = folder and folder / f"seed={self.seeds[0]}" / "checkpoints" / name
        return Predictions(stacked, {"best_epochs": epochs}, embeddings, checkpoint=first)

    def _classifier(self, seed: int, rows: Tensor, frac: float) -> SSLFineTuner:
        """Put a new classifier on a copy of the encoder, and seed the generators."""
        seed_everything(seed, verbose=False)
        recipe, data = self.recipe, self.task.data
        encoder = deepcopy(self.task.encoder).train()
        if not recipe.freeze_backbone:
            # Faster; and the same in all processes, though only the first has computed features.
            encoder.to(memory_format=torch.channels_last)
        return SSLFineTuner(
            encoder,
            len(data.classes),
            normalize=data.transform.normalize,
            multi_label=data.is_multi_label,
            score=self.task.score,
            learning_rate=recipe.learning_rate,
            seed=seed,
            hyper_parameters={
                **self.hyper_parameters,
                "train_frac": frac,
                "num_labelled": len(rows),
                "classes": list(data.classes),
                "input_spec": data.transform.spec.to_dict(),
                "input_transform": data.transform.fingerprint(),
            },
            milestones=recipe.falls,
            dropout=recipe.dropout,
            freeze_backbone=recipe.freeze_backbone,
            encoder_in_train_mode=recipe.encoder_in_train_mode,
        )

    def _train(self, trainer: Trainer, module: SSLFineTuner, rows: Tensor) -> dict[str, Tensor]:
        """Return the logits of the held-out splits, (N, C), by the epoch that the recipe keeps."""
        data = self.task.data
        train = self._train_loader(trainer, data.splits["train"].take(rows), module.seed)
        held_out = {}
        for split in self.held_out:
            pictures = data.splits[split].take()
            # It repeats some rows, so that all processes have as many.
            share: DistributedSampler[Any] = DistributedSampler(
                pictures, trainer.world_size, trainer.global_rank, shuffle=False
            )
            held_out[split] = self._loader(pictures, share)
        resumed = self.resumed
        trainer.fit(module, train, held_out["val"], ckpt_path=resumed, weights_only=True)
        if self.recipe.select_epoch:
            module.load_state_dict(module.best.state)
        logits = {}
        for split, loader in held_out.items():
            trainer.test(module, loader, verbose=False)
            logits[split] = module.test_logits
        return logits

    def _train_loader(self, trainer: Trainer, data: Dataset[Any], seed: int) -> DataLoader[Any]:
        """Load this process's share of an order that is a function of (seed, epoch)."""
        recipe = self.recipe
        keys = SeededSampler(
            len(data),  # type: ignore[arg-type]
            seed,
            epoch=lambda: epoch_of(trainer),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        order = SeededOrder(keys) if recipe.seeded_order else RandomSampler(data)  # type: ignore[arg-type]
        # Batch norm cannot normalise a batch of one picture.
        loader = self._loader(data, order, recipe.drop_last or len(keys) % recipe.batch_size == 1)
        if not len(loader):
            raise UserError(
                f"{keys.num_samples} labelled pictures are too few for {trainer.world_size} "
                f"processes and batches of {recipe.batch_size}: use more labels, or one process "
                "and smaller batches"
            )
        return loader

    def _loader(
        self, data: Dataset[Any], sampler: Sampler[Any], drop_last: bool = False
    ) -> DataLoader[Any]:
        workers = self.task.data.num_workers
        return DataLoader(
            data,
            self.recipe.batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=drop_last,
            persistent_workers=workers > 0,
        )


def save_best(module: SSLFineTuner, path: Path) -> None:
    """Write a module that has the weights of its best epoch."""
    described = {**module.hparams, "best_epoch": module.best.epoch}
    content = {"hyper_parameters": described, "state_dict": module.state_dict()}
    WholeCheckpointIO().save_checkpoint(content, path)
