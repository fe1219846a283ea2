"""MoCo-v2 with one or several embedding spaces: the model of Seasonal Contrast.

Shapes: B images per process, W processes, C bands, D embedding size, K queued keys, S embedding
spaces, each with a key view of its own. Features ``v_*`` come from an encoder, projections ``z_*``
from a head.

Processes share gradients, queues and keys, so that W of them take the same step as one process with
the global batch. Only batch norm is computed per process, as in MoCo; its running statistics differ
a little, and a checkpoint holds those of the first process.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from models.backbones import Encoder
from models.bad_steps import StepGuard
from models.contrast import enqueue, info_nce_logits, spread, update_average
from models.group_batch_norm import GroupBatchNorm2d, views_apart
from models.winograd import use_winograd
from utils.distributed import gather, own_part, unshuffle, world_size


class MocoV2(LightningModule):
    """Query encoder and heads, their moving averages, and one queue of keys per space.

    Names of arguments and of tensors are those of the original, so that its checkpoints load.

    Args:
        base_encoder: Name of a torchvision ResNet.
        emb_dim: Size D of the embeddings.
        num_negatives: Length K of each queue.
        emb_spaces: Number S of spaces: 1 for MoCo, 3 for SeCo.
        encoder_momentum: Momentum of the moving averages, in 0..1.
        softmax_temperature: Divisor of the similarities, above 0.
        learning_rate: Initial learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        schedule: Epochs at which ``lr_schedule="step"`` divides the rate by ten.
        lr_schedule: "step" (the original) or "cosine" (to zero at the last epoch).
        warmup_epochs: Epochs of linear warm-up.
        in_channels: Bands of the images.
        bn_group_size: Images that share batch-norm statistics; 0 = the batch of the process.
        log_every_n_steps: Steps between logged values, whose computation waits for the device.
        input_spec: ``InputSpec.to_dict()`` of the images, which the checkpoint carries.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        base_encoder: str,
        emb_dim: int = 128,
        num_negatives: int = 16384,
        emb_spaces: int = 1,
        *,
        encoder_momentum: float = 0.999,
        softmax_temperature: float = 0.07,
        learning_rate: float = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: Sequence[int] = (120, 160),
        lr_schedule: str = "step",
        warmup_epochs: float = 0,
        in_channels: int = 3,
        bn_group_size: int = 0,
        log_every_n_steps: int = 50,
        input_spec: dict[str, list[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # fused=True would save 12 ms per step of a ResNet-18 on a CPU, but torch 2.15 then computes
        # wrong weights, without an error, if the memory layouts of gradient and weight differ.
        self.optimizer = partial(
            SGD, lr=learning_rate, momentum=momentum, weight_decay=weight_decay
        )
        self.lr_factor = partial(
            lr_factor, kind=lr_schedule, milestones=schedule, warmup_epochs=warmup_epochs
        )
        self.log_every_n_steps = log_every_n_steps
        self.encoder_momentum = encoder_momentum
        self.softmax_temperature = softmax_temperature
        self.bn_group_size = bn_group_size
        self.join_keys = True  # in one forward pass on a CPU; more memory traffic on a GPU
        norm = partial(GroupBatchNorm2d, group_size=bn_group_size)
        self.encoder_q, self.encoder_k = (
            Encoder(base_encoder, in_channels=in_channels, norm_layer=norm) for _ in range(2)
        )
        self.mlp_dim = self.encoder_q.num_features
        self.heads_q = _heads(emb_spaces, self.mlp_dim, emb_dim)
        self.heads_k = _heads(emb_spaces, self.mlp_dim, emb_dim)
        for query, key in ((self.encoder_q, self.encoder_k), (self.heads_q, self.heads_k)):
            key.load_state_dict(query.state_dict())
            key.requires_grad_(False)
        for encoder in (self.encoder_q, self.encoder_k):
            use_winograd(encoder)
        queue = F.normalize(torch.randn(emb_spaces, emb_dim, num_negatives), dim=1)
        self.register_buffer("queue", queue)  # (S, D, K)
        self.register_buffer("queue_ptr", torch.zeros(emb_spaces, 1, dtype=torch.long))
        self.guard = StepGuard((self.encoder_q, self.encoder_k))

    def forward(
        self, img_q: Tensor, img_k: Sequence[Tensor], order: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Update the keys' encoder, score queries against keys, then enqueue the keys.

        A training step enqueues them after the backward pass, and only if all of it is finite.

        Args:
            img_q: Queries, shape (B, C, H, W).
            img_k: Keys, one batch per embedding space, each of shape (B, C, H, W).
            order: Permutation by which ``exchange`` has shuffled the keys of all processes, shape
                (W * B,); None if each key is at the index of its query.

        Returns:
            Logits of each space, float32: (B, 1 + K) in space 0 and (B, 1 + K + (S - 1) * W * B) in
            the others, whose negatives include the keys of the other views (SeCo, section 3.2).
            Targets: zeros of shape (B,), because column 0 is the positive.
        """
        logits, newest = self._score(img_q, img_k, order)
        enqueue(self.queue, self.queue_ptr, newest)
        return logits, torch.zeros(len(img_q), dtype=torch.long, device=img_q.device)

    def training_step(
        self, batch: tuple[Tensor, list[Tensor], Tensor | None], batch_idx: int
    ) -> Tensor:
        self.guard.begin()
        logits, self._newest = self._score(*batch)
        targets = torch.zeros(len(batch[0]), dtype=torch.long, device=self.device)
        losses = [F.cross_entropy(scores, targets) for scores in logits]
        loss = torch.stack(losses).sum()  # the sum, not the mean, over the spaces
        self._loss = loss.detach()
        if (self.global_step + 1) % self.log_every_n_steps == 0:
            self._log(loss, losses, logits)
        return loss

    def make_optimizer(self) -> SGD:
        """Return a new optimizer of what is trained."""
        return self.optimizer([*self.encoder_q.parameters(), *self.heads_q.parameters()])

    @property
    def is_last_step_good(self) -> bool:
        """Whether the loss, keys and gradients of the last step were finite; waits for a GPU."""
        return int(self.guard.first) < 0

    def on_after_backward(self) -> None:
        """Enqueue the keys of the step, or undo it if a process has numbers that are not finite."""
        # GradScaler of float16 skips steps by itself, while it looks for its factor.
        is_scaled = self.trainer.precision == "16-mixed"
        trained = [] if is_scaled else self.trainer.optimizers[0].param_groups[0]["params"]
        bad = self.guard.end(self.global_step, (self._loss, self._newest), trained)
        enqueue(self.queue, self.queue_ptr, self._newest, bad)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.make_optimizer()
        trainer, max_epochs = self.trainer, self.trainer.max_epochs or 1

        def factor(step: int) -> float:
            # Called for step 0 before the loader exists, when the number of batches is infinite.
            # trainer.estimated_stepping_batches would start the loader here, which would read ahead
            # before a resumed run knows its epoch.
            return self.lr_factor(step / trainer.num_training_batches, max_epochs)

        scheduler = LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _score(
        self, img_q: Tensor, img_k: Sequence[Tensor], order: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Update the keys' encoder; return the logits, and the new keys, shape (S, W * B, D)."""
        update_average(self.encoder_k, self.encoder_q, self.encoder_momentum)
        update_average(self.heads_k, self.heads_q, self.encoder_momentum)
        # Keys first: their memory is free again when that of the query, for backward, fills up.
        z_k = self._encode_keys(img_k, order)  # (W * B, S views, S spaces, D)
        v_q = self.encoder_q(img_q)  # (B, mlp_dim)
        own, logits = own_part(z_k), []
        for space, head in enumerate(self.heads_q):
            others = [z_k[:, v, space].T for v in range(len(img_k)) if v != space and space > 0]
            # cat copies: backward needs the queue as it is before it takes the keys.
            negatives = torch.cat([self.queue[space], *others], dim=1)  # (D, K + (S - 1) * W * B)
            z_q = _project(head, v_q)
            with torch.autocast(self.device.type, enabled=False):
                logits.append(
                    info_nce_logits(z_q, own[:, space, space], negatives, self.softmax_temperature)
                )
        newest = torch.stack([z_k[:, space, space] for space in range(len(img_k))])
        return logits, newest

    @torch.no_grad()
    def _encode_keys(self, img_k: Sequence[Tensor], order: Tensor | None) -> Tensor:
        """Return the keys of all processes in every space, in the order of their queries.

        Views do not share batch statistics. On a CPU all of them take one forward pass, in which
        the weights are brought into the order of the processor once.

        Args:
            img_k: S views of shape (B, C, H, W).
            order: See ``forward``.

        Returns:
            float32, shape (W * B, S views, S spaces, D).
        """
        if self.join_keys and img_k[0].device.type == "cpu":
            with views_apart(self.encoder_k, len(img_k)):
                views = self.encoder_k(torch.cat(list(img_k))).chunk(len(img_k))
        else:
            views = [self.encoder_k(images) for images in img_k]
        v_k = torch.stack(views, dim=1)  # (B, S, mlp_dim)
        z_k = torch.stack([_project(head, v_k) for head in self.heads_k], dim=2)
        return gather(z_k) if order is None else unshuffle(z_k, order)

    def _log(self, loss: Tensor, losses: list[Tensor], logits: list[Tensor]) -> None:
        """Log loss, accuracy and spread of the newest keys of every space, over all processes."""
        values = {"train/loss": loss.detach(), "train/bad_steps": self.guard.count.float()}
        for space, scores in enumerate(logits):
            values[f"train/loss_{space}"] = losses[space].detach()
            values[f"train/accuracy_{space}"] = (scores.argmax(dim=1) == 0).float().mean()
            values[f"train/spread_{space}"] = spread(self._newest[space])
        self.log_dict(values, sync_dist=world_size() > 1)


def _heads(count: int, features: int, emb_dim: int) -> nn.ModuleList:
    """Build one two-layer projection per space; index names are those of the original."""
    return nn.ModuleList(
        nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, emb_dim))
        for _ in range(count)
    )


def _project(head: nn.Module, features: Tensor) -> Tensor:
    """Return unit-norm projections in float32, (..., mlp_dim) -> (..., D)."""
    return F.normalize(head(features).float(), dim=-1)


def lr_factor(
    epoch: float,
    max_epochs: int,
    *,
    kind: str = "step",
    milestones: Sequence[int] = (),
    warmup_epochs: float = 0,
) -> float:
    """Return the factor of the initial learning rate.

    Args:
        epoch: Finished epochs, with fractions, in 0..``max_epochs``.
        max_epochs: Epochs of the run; the cosine ends there.
        kind: "step" divides by ten at each milestone, as SeCo; "cosine" falls to 0, as MoCo-v2.
        milestones: Epochs of the steps.
        warmup_epochs: Epochs during which the factor rises linearly from 0.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    if kind == "step":
        return float(0.1 ** sum(epoch >= milestone for milestone in milestones))
    done = (epoch - warmup_epochs) / max(max_epochs - warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
