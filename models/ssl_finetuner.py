"""Classifiers that are trained through an encoder rather than on its cached features."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from models.backbones import Encoder
from models.best_epoch import BestEpoch
from models.epoch_loss import EpochLoss
from models.linear_probe import Score
from utils.data import epoch_seed
from utils.distributed import copy_from_first, gather
from utils.errors import UserError


class SSLFineTuner(LightningModule):
    """An encoder with a linear classifier, both of which are trained, or the classifier alone.

    Batches are (uint8 pictures, targets, rows in the data set). Validation scores the whole set.

    Args:
        encoder: Trained in place. In checkpoints it is named ``encoder_q``, as in those of a
            pre-training, so that the same code reads both.
        num_classes: Outputs of the classifier.
        normalize: Turns uint8 pictures into the encoder's inputs.
        multi_label: Whether a sample has any number of labels rather than one class.
        score: Score of the validation set: takes targets and logits, larger is better.
        learning_rate: Learning rate of Adam at the start.
        seed: Seed of dropout, which is drawn from (seed, epoch) so that a run can be resumed.
        hyper_parameters: Further plain values that describe the run, for its checkpoints.
        milestones: Epochs after which the learning rate is divided by ten.
        dropout: See ``Recipe``, also for the next two.
        freeze_backbone: Whether no gradient reaches the encoder.
        encoder_in_train_mode: Whether its batch norm uses the statistics of batches.

    Attributes:
        best: The epoch with the best score so far, with the tensors of this module.
        test_logits: Logits of the whole set that ``Trainer.test`` has seen, in order of its rows.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        normalize: Callable[[Tensor], Tensor],
        multi_label: bool,
        score: Score,
        learning_rate: float,
        seed: int = 0,
        hyper_parameters: Mapping[str, Any] | None = None,
        milestones: Sequence[int] = (),
        dropout: float = 0.0,
        freeze_backbone: bool = False,
        encoder_in_train_mode: bool = True,
    ) -> None:
        super().__init__()
        fixed: dict[str, Any] = {"base_encoder": encoder.architecture, "seed": seed}
        fixed |= {"milestones": list(milestones), "learning_rate": learning_rate}
        self.save_hyperparameters({**fixed, **(hyper_parameters or {})})
        self.encoder_q = encoder.requires_grad_(not freeze_backbone)
        self.classifier = nn.Linear(encoder.num_features, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.encoder_in_train_mode = encoder_in_train_mode
        self.normalize, self.score, self.multi_label = normalize, score, multi_label
        self.learning_rate, self.milestones, self.seed = learning_rate, milestones, seed
        self.best = BestEpoch()
        self.loss = EpochLoss()
        self.validation: list[tuple[Tensor, Tensor, Tensor]] = []
        self.test_logits = torch.empty(0, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures: uint8, (B, C, H, W) -> logits, float32, (B, num_classes)."""
        features = self.encoder_q(self.normalize(pictures))
        return self.classifier(self.dropout(features)).float()

    def on_train_epoch_start(self) -> None:
        self.encoder_q.train(self.encoder_in_train_mode)

    on_train_start = on_train_epoch_start  # a run that resumes within an epoch starts none

    def on_train_batch_start(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        if batch_idx == 0:  # after the loader has drawn its own numbers
            torch.manual_seed(epoch_seed(self.seed, self.current_epoch, self.global_rank))

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        pictures, targets = batch[:2]
        logits = self(pictures)
        if self.multi_label:
            loss = F.multilabel_soft_margin_loss(logits, targets.float())
        else:
            loss = F.cross_entropy(logits, targets)
        self.loss.update(loss.detach(), len(pictures))
        self.log("train/loss", self.loss, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        # Each process has its own running statistics: the encoder of the first one is scored.
        copy_from_first(self.encoder_q.buffers())

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        pictures, targets, rows = batch
        self.validation.append((rows, targets, self(pictures)))

    def on_validation_epoch_end(self) -> None:
        targets, logits = self.validation_outputs()
        score = self.score(targets, logits)
        self.log("val/score", score, prog_bar=True, sync_dist=True)
        self.best.update(score, self.current_epoch + 1, self.state_dict())

    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step

    def on_test_epoch_end(self) -> None:
        self.test_logits = self.validation_outputs()[1]

    def validation_outputs(self) -> tuple[Tensor, Tensor]:
        """Return targets and logits, each row once and in order, and delete them.

        The sampler repeats rows so that all processes have the same number of them.

        Raises:
            UserError: Logits are not finite.
        """
        parts = [torch.cat(column) for column in zip(*self.validation, strict=True)]
        self.validation.clear()
        rows, targets, logits = (gather(part).cpu() for part in parts)
        order = rows.argsort(stable=True)
        order = order[rows[order].diff(prepend=rows.new_tensor([-1])) > 0]
        if not logits.isfinite().all():
            raise UserError(
                f"scores are not finite after epoch {self.current_epoch + 1}: start again with a "
                "lower learning rate, or with --precision 32-true"
            )
        return targets[order], logits[order]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = dict(vars(self.best))
        self.loss.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best = BestEpoch(**checkpoint["best"])
        self.best.check(checkpoint["epoch"] + 1, self.state_dict())
        self.loss.load(checkpoint)

    def configure_optimizers(self) -> tuple[list[Adam], list[MultiStepLR]]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = Adam(trained, lr=self.learning_rate)
        return [optimizer], [MultiStepLR(optimizer, list(self.milestones))]
