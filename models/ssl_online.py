"""How good the features are while they are learned: probes during a pre-training.

Shapes: N train and M validation pictures, D features, C classes.
"""

import sys
from copy import deepcopy
from typing import cast

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from models.backbones import Encoder
from models.features import extract_features
from models.knn import knn_scores
from models.linear_probe import fit_linear_probe
from utils.metrics import MultiLabelScores, accuracy_percent
from utils.probe_pictures import ProbePictures

NEIGHBOURS = 20
_FEATURE_BATCH_SIZE = 128
_PROBE_BATCH_SIZE = 256
_LEARNING_RATE = 1e-3  # of the original's online probe


class SSLOnlineEvaluator(Callback):
    """Probe the query encoder every few epochs, and after the last one.

    The probes see features of a copy in eval mode and have generators of their own: the training
    ends with the same bits as without them. With several processes the first one probes, for its
    batch-norm statistics are those that the checkpoints hold, and the others wait: at most for the
    30 minutes that processes wait for each other.

    Args:
        pictures: What to probe on; None in the other processes.
        max_epochs: Epochs of a linear probe, whose last one counts.
        every_n_epochs: Epochs of the pre-training between probes.
        seed: Seed of the linear probe.
        precision: Of the encoder, a key of ``PRECISIONS``.
    """

    def __init__(
        self,
        pictures: ProbePictures | None,
        *,
        max_epochs: int,
        every_n_epochs: int,
        seed: int,
        precision: str,
    ) -> None:
        self.pictures = pictures
        self.max_epochs = max_epochs
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.precision = precision

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every_n_epochs and done != trainer.max_epochs:
            return
        scores: dict[str, float] = {}
        if self.pictures is not None:
            encoder = cast(Encoder, pl_module.encoder_q)
            scores = self.evaluate(encoder, self.pictures, pl_module.device)
            words = ", ".join(f"{name} {score:.2f} %" for name, score in scores.items())
            tqdm.write(f"epoch {done}: {words}", file=sys.stderr)
        # Here the other processes wait; then all of them log the same numbers.
        pl_module.log_dict(trainer.strategy.broadcast(scores), sync_dist=True)

    def evaluate(
        self, encoder: Encoder, pictures: ProbePictures, device: torch.device
    ) -> dict[str, float]:
        """Return scores in percent: accuracies, or micro average precision of several labels.

        Args:
            encoder: Left as it is.
            pictures: Made for it.
            device: Where to compute the features.
        """
        copy = deepcopy(encoder)
        train, val = (
            extract_features(
                copy,
                pictures.transform,
                images.split(_FEATURE_BATCH_SIZE),
                len(images),
                device=device,
                precision=self.precision,
            )
            for images in (pictures.train, pictures.val)
        )
        predictions = {
            "linear": self._linear_scores(train, val, pictures),
            "knn": _nearest_scores(train, val, pictures),
        }
        if pictures.is_multi_label:
            return {
                f"online/{probe}_map_micro": MultiLabelScores(pictures.val_targets, scores).micro()
                for probe, scores in predictions.items()
            }
        return {
            f"online/{probe}_accuracy": accuracy_percent(pictures.val_targets, scores.argmax(1))
            for probe, scores in predictions.items()
        }

    def _linear_scores(self, train: Tensor, val: Tensor, pictures: ProbePictures) -> Tensor:
        """Fit a linear layer: features (N, D) and (M, D) -> scores of validation, (M, C)."""
        probes = fit_linear_probe(
            train,
            pictures.train_targets,
            pictures.num_classes,
            seeds=[self.seed],
            rows=[torch.arange(len(train))],
            validation=None,
            max_epochs=self.max_epochs,
            batch_size=_PROBE_BATCH_SIZE,
            learning_rate=_LEARNING_RATE,
        )
        return probes.logits(val)[0]


def _nearest_scores(train: Tensor, val: Tensor, pictures: ProbePictures) -> Tensor:
    """Ask the nearest neighbours: features (N, D) and (M, D) -> scores of validation, (M, C)."""
    targets = pictures.train_targets
    if not pictures.is_multi_label:
        targets = F.one_hot(targets, pictures.num_classes)
    return knn_scores(train, targets, val, min(NEIGHBOURS, len(train)))
