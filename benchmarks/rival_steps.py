"""The training step of the original and that of lightly's parts, next to ours.

All of them take finished views, encode a query and three keys, and have three heads with a queue
each, with the sizes of SeCo.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.optim import SGD

from benchmarks.reference_pipeline import Views
from benchmarks.timing import Measure, rate
from benchmarks.train_cases import BareLoop
from models.backbones import Encoder
from models.moco2_module import MocoV2
from utils.precision import auto_precision, autocast_type

Step = Callable[[Views], object]
CPU = torch.device("cpu")
SIZES = ("resnet18", 128, 16384, 3)  # encoder, embedding, queue and spaces of SeCo
MOMENTUM, TEMPERATURE = 0.999, 0.07  # of the moving average; of the softmax
new_optimizer = partial(SGD, lr=0.03, momentum=0.9, weight_decay=1e-4)


def step_cases(views: Views, steps: int, with_lightly: bool) -> dict[str, Measure]:
    """Measure steps on one batch of views again and again, in samples per second.

    Ours is measured in 32-bit floats, as the others, and in bf16 where the device computes in it.

    Args:
        views: Query (B, 3, H, W) and three keys of the same shape.
        steps: Steps per repeat.
        with_lightly: Whether lightly is installed.
    """
    model = MocoV2(*SIZES).to(memory_format=torch.channels_last)
    loops: dict[str, Step] = {
        "reference": OriginalLoop(*SIZES).step,
        "ours": BareLoop(model, None).step,
    }
    half = autocast_type(auto_precision(False))
    if half is not None:
        loops["ours_bf16"] = BareLoop(deepcopy(model), half).step
    if with_lightly:
        loops["lightly"] = LightlyLoop(*SIZES).step

    def work(step: Step) -> None:
        for _ in range(steps):
            step(views)

    units = steps * len(views[0])
    return {f"step/{name}": rate(partial(work, step), units, CPU) for name, step in loops.items()}


class OriginalLoop(nn.Module):
    """The step of https://github.com/ServiceNow/seasonal-contrast, written from its description.

    Contiguous tensors, a moving average parameter by parameter, one space after the other, and the
    accuracy of every space in every step. Names of tensors are those of ``MocoV2``.

    Args:
        base_encoder: Name of a torchvision ResNet.
        emb_dim: Size of the embeddings.
        num_negatives: Length of each queue.
        emb_spaces: Number of embedding spaces.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self, base_encoder: str, emb_dim: int, num_negatives: int, emb_spaces: int
    ) -> None:
        super().__init__()
        self.encoder_q, self.encoder_k = (Encoder(base_encoder) for _ in range(2))
        features = self.encoder_q.num_features
        self.heads_q, self.heads_k = (
            nn.ModuleList(head(features, emb_dim) for _ in range(emb_spaces)) for _ in range(2)
        )
        for query, key in self._pairs():
            key.data.copy_(query.data)
            key.requires_grad = False
        queue = normalize(torch.randn(emb_spaces, emb_dim, num_negatives), dim=1)
        self.register_buffer("queue", queue)
        self.register_buffer("queue_ptr", torch.zeros(emb_spaces, 1, dtype=torch.long))
        parameters = chain(self.encoder_q.parameters(), self.heads_q.parameters())
        self.optimizer = new_optimizer(parameters)

    def step(self, views: Views) -> Tensor:
        """Train on one batch of views, and return the loss."""
        img_q, img_k = views
        self._average()
        v_q = self.encoder_q(img_q)
        with torch.no_grad():
            v_k = [self.encoder_k(images) for images in img_k]
        losses = []
        for space in range(len(self.heads_q)):
            scores = self._scores(space, v_q, v_k)
            targets = torch.zeros(len(scores), dtype=torch.long)
            losses.append(cross_entropy(scores, targets))
            scores.topk(1)[1].eq(targets[:, None]).float().mean().item()  # logged in every step
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _scores(self, space: int, v_q: Tensor, v_k: list[Tensor]) -> Tensor:
        """Score the queries in one space, (B, 1 + negatives), and enqueue its keys."""
        z_q = normalize(self.heads_q[space](v_q), dim=1)
        with torch.no_grad():
            z_k = [normalize(self.heads_k[space](features), dim=1) for features in v_k]
        negatives = self.queue[space].clone()
        if space > 0:
            others = [z.T for view, z in enumerate(z_k) if view != space]
            negatives = torch.cat([negatives, *others], dim=1)
        positive = torch.einsum("nc,nc->n", z_q, z_k[space])[:, None]
        scores = torch.cat([positive, torch.einsum("nc,ck->nk", z_q, negatives)], dim=1)
        start = int(self.queue_ptr[space])
        stop = start + len(z_q)
        self.queue[space, :, start:stop] = z_k[space].T
        self.queue_ptr[space] = stop % self.queue.shape[2]
        return scores / TEMPERATURE

    @torch.no_grad()
    def _average(self) -> None:
        for query, key in self._pairs():
            key.data = key.data * MOMENTUM + query.data * (1 - MOMENTUM)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        queries = chain(self.encoder_q.parameters(), self.heads_q.parameters())
        keys = chain(self.encoder_k.parameters(), self.heads_k.parameters())
        return zip(queries, keys, strict=True)


class LightlyLoop(nn.Module):
    """Lightly's MoCo, https://docs.lightly.ai/self-supervised-learning/examples/moco.html.

    Its example has one key and one head; this has three, as SeCo.

    Args:
        base_encoder: Name of a torchvision ResNet.
        emb_dim: Size of the embeddings.
        num_negatives: Length of each queue.
        emb_spaces: Number of embedding spaces.
    """

    def __init__(
        self, base_encoder: str, emb_dim: int, num_negatives: int, emb_spaces: int
    ) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.backbone = Encoder(base_encoder)
        features = self.backbone.num_features
        heads = [MoCoProjectionHead(features, features, emb_dim) for _ in range(emb_spaces)]
        self.projection_heads = nn.ModuleList(heads)
        self.backbone_momentum = deepcopy(self.backbone)
        self.projection_heads_momentum = deepcopy(self.projection_heads)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_heads_momentum)
        self.criteria = nn.ModuleList(
            NTXentLoss(TEMPERATURE, memory_bank_size=(num_negatives, emb_dim)) for _ in heads
        )
        self.optimizer = new_optimizer(self.parameters())

    def step(self, views: Views) -> Tensor:
        """Train on one batch of views, and return the loss."""
        from lightly.models.utils import update_momentum

        img_q, img_k = views
        update_momentum(self.backbone, self.backbone_momentum, m=MOMENTUM)
        update_momentum(self.projection_heads, self.projection_heads_momentum, m=MOMENTUM)
        query = self.backbone(img_q).flatten(start_dim=1)
        losses = []
        for space, images in enumerate(img_k):
            key = self.backbone_momentum(images).flatten(start_dim=1)
            key = self.projection_heads_momentum[space](key).detach()
            losses.append(self.criteria[space](self.projection_heads[space](query), key))
        loss = torch.stack(losses).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def head(features: int, emb_dim: int) -> nn.Sequential:
    """Build a projection with one hidden layer.

    Args:
        features: Size of the input and of the hidden layer.
        emb_dim: Size of the output.
    """
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, emb_dim))
