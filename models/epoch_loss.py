"""Mean loss of an epoch, also of one that is interrupted and resumed."""

from typing import Any

import torch
from torchmetrics import MeanMetric

from utils.distributed import gather, rank


class EpochLoss(MeanMetric):
    """Mean over the samples of an epoch and of all processes, for ``LightningModule.log``."""

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the sums of an epoch so far, those of all processes.

        Args:
            checkpoint: Checkpoint that is written.
        """
        sums = torch.stack([self.mean_value, self.weight])
        checkpoint["epoch_loss"] = gather(sums[None]).sum(0).cpu()

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums in the first process, unless the epoch was over.

        Args:
            checkpoint: Checkpoint that is read.

        Raises:
            ValueError: The file holds something else.
        """
        if (
            rank() > 0
            or checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
        ):
            return
        sums = checkpoint["epoch_loss"]
        if sums.shape != (2,) or sums.dtype != self.weight.dtype or not sums.isfinite().all():
            raise ValueError("epoch_loss has another shape or type")
        self.mean_value, self.weight = sums.to(self.weight.device)
