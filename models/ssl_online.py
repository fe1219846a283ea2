"""Linear probe and k-NN of the encoder during a pre-training."""

import sys
from copy import deepcopy
from functools import partial
from typing import cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from models.backbones import Encoder
from models.features import read_features
from models.linear_probe import Labelled, Recipe, fit_linear_probe
from models.probes import knn_scores
from utils.probe_data import ProbeData

NEIGHBOURS = 20
_BATCH_SIZE = 128  # of the features
_PROBE_BATCH_SIZE = 256
_LEARNING_RATE = 1e-3  # of the original's online probe


class SSLOnlineEvaluator(Callback):
    """Probe the query encoder before the first step, every few epochs, and after the last one.

    The probes use a copy of the encoder in eval mode and generators of their own: the training ends
    with the same bits as without them. With several processes the first one probes, because
    checkpoints hold its batch-norm statistics, and the others wait, at most for 30 minutes.

    Args:
        pictures: Data set to probe on, opened for the encoder; None in the other processes.
        max_epochs: Epochs of a linear probe, whose last one counts.
        every_n_epochs: Epochs of the pre-training between probes.
        seed: Seed of the linear probe.
        precision: Precision of the encoder, a key of ``PRECISIONS``.
    """

    def __init__(
        self,
        pictures: ProbeData | None,
        *,
        max_epochs: int,
        every_n_epochs: int,
        seed: int,
        precision: str,
    ) -> None:
        self.pictures = pictures
        self.max_epochs, self.every_n_epochs = max_epochs, every_n_epochs
        self.seed, self.precision = seed, precision

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:  # what the encoder knows before it has learned anything
            scores = self._probe(pl_module, 0)
            for logger in trainer.loggers:
                logger.log_metrics({**scores, "epoch": 0}, step=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every_n_epochs and done != trainer.max_epochs:
            return
        # Here the other processes wait; then all of them log the same numbers.
        scores = trainer.strategy.broadcast(self._probe(pl_module, done))
        pl_module.log_dict(scores, sync_dist=True)

    def _probe(self, pl_module: LightningModule, epochs: int) -> dict[str, float]:
        """Print and return the scores after some epochs; none in the processes that only wait."""
        if self.pictures is None:
            return {}
        encoder = cast(Encoder, pl_module.encoder_q)
        scores = self.evaluate(encoder, self.pictures, pl_module.device)
        words = ", ".join(f"{name} {score:.2f} %" for name, score in scores.items())
        tqdm.write(f"epoch {epochs}: {words}", file=sys.stderr)
        return scores

    def evaluate(self, encoder: Encoder, data: ProbeData, device: torch.device) -> dict[str, float]:
        """Return scores in percent: accuracies, or micro average precision of several labels.

        Args:
            encoder: Encoder to probe, which does not change.
            data: Data set that was opened for it.
            device: Where to compute the features.
        """
        read = partial(
            read_features,
            *(deepcopy(encoder), data),
            batch_size=_BATCH_SIZE,
            device=device,
            precision=self.precision,
        )
        train, val = (Labelled(read(s)[0], data.targets[s]) for s in ("train", "val"))
        count, rows = len(data.classes), torch.arange(len(train.features))
        recipe = Recipe(self.max_epochs, _PROBE_BATCH_SIZE, _LEARNING_RATE)
        probe, _ = fit_linear_probe(train, count, rows, seed=self.seed, recipe=recipe)
        scores = {
            "linear": probe.scores(val.features),
            "knn": knn_scores(train, count, min(NEIGHBOURS, len(rows)), val.features),
        }
        name = "map_micro" if data.is_multi_label else "accuracy"
        return {
            f"online/{method}_{name}": data.score(val.targets, values)
            for method, values in scores.items()
        }
