"""LightningModule of a change detector: loss, validation, and the epoch that is kept."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

from models.backbones import Encoder
from models.best_epoch import BestEpoch
from models.change_scores import THRESHOLDS, best_threshold, count_changes, mean_of_batches
from models.epoch_loss import EpochLoss
from models.segmentation import (
    LEVELS,
    LEVELS_OF_THE_ORIGINAL,
    get_segmentation_model,
    level_channels,
)
from utils.data import epoch_seed
from utils.errors import UserError

WEIGHT_DECAY = 1e-4  # this and the next as in the original
DECAY_PER_EPOCH = 0.95  # of the learning rate

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class ChangeDetector(LightningModule):
    """Finds what changed between two dates, (B, C, H, W) uint8 each.

    A batch holds both dates, uint8, whether each pixel changed, and whether it counts, bool,
    (B, H, W). Validation chooses the threshold with the best F1 over all its pixels.

    Args:
        encoder: Used in place.
        normalize: Turns uint8 pictures into the encoder's inputs.
        hyper_parameters: Plain values that describe the run, for its checkpoints.
        seed: Seed of the dropout, set again in every epoch, so that a run can be resumed.
        learning_rate: Learning rate of Adam; multiplied by ``DECAY_PER_EPOCH`` after each epoch.
        pos_weight: Weight of a changed pixel in the loss; an unchanged one has 1.
        finetune_backbone: Whether the encoder is trained, too.
        as_original: Whether the raw stem is compared, batch norm of a frozen encoder uses, and
            learns, the statistics of batches, and validation gives precision, recall and F1 at 0.5,
            averaged over batches, and chooses no epoch.

    Attributes:
        best: The epoch with the highest F1, with the tensors that training changes.
        threshold: Probability from which a pixel counts as changed, chosen in that epoch.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        normalize: Callable[[Tensor], Tensor],
        hyper_parameters: dict[str, Any],
        seed: int,
        learning_rate: float,
        pos_weight: float = 1.0,
        finetune_backbone: bool = False,
        as_original: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(hyper_parameters)
        encoder.requires_grad_(finetune_backbone)
        levels = LEVELS_OF_THE_ORIGINAL if as_original else LEVELS
        self.model = get_segmentation_model(encoder, levels, level_channels(encoder, levels))
        self.normalize = normalize
        self.seed = seed
        self.learning_rate = learning_rate
        self.pos_weight = torch.tensor(pos_weight)
        self.finetune_backbone = finetune_backbone
        self.as_original = as_original
        self.counts: list[Tensor] = []
        self.best, self.threshold = BestEpoch(), 0.5
        self.loss = EpochLoss()
        self.train()

    def train(self, mode: bool = True) -> "ChangeDetector":
        """Switch to training, except for a frozen encoder's batch norm."""
        super().train(mode)
        self.model.siamese.train(mode and (self.as_original or self.finetune_backbone))
        return self

    def forward(self, image_1: Tensor, image_2: Tensor) -> Tensor:
        """Return the logits of change of every pixel: float32, shape (B, H, W).

        Args:
            image_1: First date, uint8, shape (B, C, H, W).
            image_2: Second date, uint8, shape (B, C, H, W).
        """
        logits: Tensor = self.model(self.normalize(image_1), self.normalize(image_2))
        return logits[:, 0].float()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            torch.manual_seed(epoch_seed(self.seed, self.current_epoch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image_1, image_2, mask, valid = batch
        loss = masked_loss(self(image_1, image_2), mask, valid, self.pos_weight.to(self.device))
        self.loss.update(loss.detach(), len(image_1))
        self.log("train/loss", self.loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image_1, image_2, mask, valid = batch
        probability = self(image_1, image_2).sigmoid()
        self.counts.append(count_changes(probability[valid], mask[valid]))

    def on_validation_epoch_end(self) -> None:
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            raise UserError(
                f"weights are not finite after epoch {self.current_epoch + 1}: start again with a "
                "lower --learning_rate, or with --precision 32-true"
            )
        counts = torch.stack(self.counts)  # (batches, 3, thresholds)
        self.counts.clear()
        if self.as_original:
            for name, value in mean_of_batches(counts).items():
                self.log(f"val/{name}_batch_mean", value, prog_bar=name == "f1")
            return
        threshold, f1 = best_threshold(counts.sum(0))
        self.log_dict({"val/f1": f1, "val/threshold": threshold}, prog_bar=True)
        if self.best.update(f1, self.current_epoch + 1, self._trained_state()):
            self.threshold = threshold

    def _trained_state(self) -> dict[str, Tensor]:
        """Return all tensors but those of a frozen encoder, which never change."""
        frozen = () if self.finetune_backbone else ("model.siamese.",)
        state = self.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith(frozen)}

    def load_best_state(self) -> None:
        """Load the weights of the best epoch; those of a frozen encoder never change."""
        self.load_state_dict(self.state_dict() | self.best.state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        best = self.best
        checkpoint["best"] = {"f1": best.score, "epoch": best.epoch, "state": best.state}
        checkpoint["best"]["threshold"] = self.threshold
        self.loss.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        best = checkpoint["best"]
        self.best = BestEpoch(best["f1"], best["epoch"], best["state"])
        self.best.check(checkpoint["epoch"] + 1, self._trained_state())
        self.threshold = best["threshold"]
        if self.threshold not in THRESHOLDS:
            raise ValueError("best has another threshold")
        self.loss.load(checkpoint)

    def configure_optimizers(self) -> tuple[list[Adam], list[ExponentialLR]]:
        # A list: the original's set has another order in a resumed run, and Adam's moments follow.
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = Adam(trained, lr=self.learning_rate, weight_decay=WEIGHT_DECAY)
        return [optimizer], [ExponentialLR(optimizer, DECAY_PER_EPOCH)]


def masked_loss(logits: Tensor, mask: Tensor, valid: Tensor, pos_weight: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of the pixels that count.

    Args:
        logits: Logits of change, shape (B, H, W).
        mask: Whether a pixel changed, bool, shape (B, H, W).
        valid: Whether it counts, bool, shape (B, H, W).
        pos_weight: Weight of changed pixels, shape ().
    """
    return F.binary_cross_entropy_with_logits(
        logits[valid], mask[valid].to(logits.dtype), pos_weight=pos_weight
    )
