"""The training without Lightning: the same model, views and optimiser in the barest loop."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.seco.data_modes import DATA_MODES
from models.moco2_module import MocoV2
from utils.transforms import Augment

SECO = DATA_MODES["seco"]
SPACES = SECO.emb_spaces


class BareLoop:
    """Steps of Seasonal Contrast with the defaults of main_pretrain.py.

    Args:
        model: On the device where it trains.
        autocast: Type of the arithmetic, None for float32.
    """

    def __init__(self, model: MocoV2, autocast: torch.dtype | None) -> None:
        self.model = model
        self.autocast = autocast
        parameters = [*model.encoder_q.parameters(), *model.heads_q.parameters()]
        self.optimizer = model.optimizer(parameters)

    def step(self, img_q: Tensor, img_k: Sequence[Tensor]) -> None:
        """Train on one batch of views."""
        with torch.autocast(img_q.device.type, self.autocast, enabled=self.autocast is not None):
            logits, targets = self.model(img_q, img_k)
            loss = torch.stack([F.cross_entropy(scores, targets) for scores in logits]).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def seco_views(augment: Augment, patches: Tensor, keys: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Turn uint8 patches (B, T, C, H, W) into query and keys, as ``SecoDataModule`` does."""
    img_q, *img_k = (
        augment(patches[:, view.date], keys, stream, view.synthetic)
        for stream, view in enumerate(SECO.views)
    )
    return img_q, img_k
