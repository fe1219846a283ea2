"""Momentum contrast without a network: queue of keys, InfoNCE logits, moving average of weights.

Shapes: B images per process, W processes, D embedding size, K queued keys, S embedding spaces.
MoCo: https://arxiv.org/abs/1911.05722. SeCo: https://arxiv.org/abs/2103.16607.
"""

import torch
from torch import Tensor, nn

from utils.errors import UserError


@torch.no_grad()
def enqueue(queue: Tensor, queue_ptr: Tensor, keys: Tensor, skipped: Tensor | None = None) -> None:
    """Overwrite the oldest keys in place; at the end of the queue, continue at its start.

    Args:
        queue: Unit-norm keys, shape (S, D, K).
        queue_ptr: Column that is written next, shape (S, 1).
        keys: New keys of all processes, shape (S, W * B, D), with W * B <= K.
        skipped: Whether the keys are left out after all, bool, shape (), on any device.

    Raises:
        UserError: There are more keys than the queue holds.
    """
    size, count = queue.shape[2], keys.shape[1]
    if count > size:
        raise UserError(f"{count} keys do not fit into a queue of {size}: raise --num_negatives")
    columns = (queue_ptr + torch.arange(count, device=queue.device)) % size  # (S, W * B)
    columns = columns[:, None].expand(-1, queue.shape[1], -1)
    newest, moved = keys.mT.to(queue.dtype), torch.full_like(queue_ptr, count)
    if skipped is not None:
        newest, moved = torch.where(skipped, queue.gather(2, columns), newest), moved * ~skipped
    queue.scatter_(2, columns, newest)
    queue_ptr.add_(moved).remainder_(size)


def info_nce_logits(
    query: Tensor, positive: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """Score queries against their positive key and shared negatives.

    Equation 1 of MoCo is the cross-entropy of these logits with target 0.

    Args:
        query: Unit-norm queries, shape (B, D).
        positive: Unit-norm key of each query, shape (B, D).
        negatives: Unit-norm keys of other images, shape (D, K).
        temperature: Divisor of the cosine similarities, > 0; 0.07 in MoCo and SeCo.

    Returns:
        Logits of shape (B, 1 + K); column 0 is the positive.
    """
    similarity_positive = torch.einsum("bd,bd->b", query, positive)[:, None]  # (B, 1)
    similarity_negative = query @ negatives  # (B, K)
    return torch.cat([similarity_positive, similarity_negative], dim=1) / temperature


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move the parameters of ``average`` towards those of ``module``: a <- m * a + (1 - m) * p.

    Buffers stay: as in MoCo, the key encoder keeps its own batch-norm statistics.

    Args:
        average: Module whose parameters are changed in place.
        module: Module of the same architecture.
        momentum: Share m of its own value that each parameter keeps, in 0..1; 0.999 in MoCo and
            SeCo.
    """
    targets: list[Tensor] = list(average.parameters())
    sources: list[Tensor] = list(module.parameters())
    # No public function moves all parameters in one kernel.
    torch._foreach_lerp_(targets, sources, 1 - momentum)


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Measure collapse: 1 for unit vectors in all directions, 0 if all are the same.

    The deviation of each coordinate over the batch, times sqrt(D), averaged (Chen and He 2021,
    section 4.1, https://arxiv.org/abs/2011.10566).

    Args:
        embeddings: Unit-norm vectors, shape (B, D).
    """
    return embeddings.std(dim=0).mean() * embeddings.shape[1] ** 0.5
