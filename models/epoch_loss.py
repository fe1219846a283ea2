"""Mean loss of an epoch, also of one that is interrupted and resumed."""

from typing import Any

import torch
from torchmetrics import MeanMetric

from utils.distributed import gather, rank, world_size


class EpochLoss(MeanMetric):
    """Mean over the samples of an epoch and of all processes, for ``LightningModule.log``."""

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the sums of an epoch so far, a row for each process.

        Args:
            checkpoint: Checkpoint that is written.
        """
        sums = torch.stack([self.mean_value, self.weight])
        checkpoint["epoch_loss"] = gather(sums[None]).cpu()

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums, unless the epoch was over.

        With another number of processes, the first one takes all of them.

        Args:
            checkpoint: Checkpoint that is read.

        Raises:
            ValueError: The file holds something else.
        """
        if checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]:
            return
        sums = checkpoint["epoch_loss"].reshape(-1, 2)
        if sums.dtype != self.weight.dtype or not sums.isfinite().all():
            raise ValueError("epoch_loss has another shape or type")
        if len(sums) == world_size():  # each process its own: other orders of a sum round otherwise
            self.mean_value, self.weight = sums[rank()].to(self.weight.device)
        elif rank() == 0:
            self.mean_value, self.weight = sums.sum(0).to(self.weight.device)
