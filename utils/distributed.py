"""Exchange between processes; for a single process everything is the identity."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes in order of rank: (B, ...) -> (W * B, ...)."""
    if world_size() == 1:
        return tensor
    tensor = tensor.contiguous()  # NCCL copies memory as it lies, and so mixes up other layouts
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def shared_permutation(size: int, seed: tuple[int, int], device: torch.device) -> Tensor:
    """Draw a permutation of ``range(size)`` from a step and a view: the same in all processes."""
    step, view = seed
    generator = torch.Generator(device).manual_seed(step * 1000 + view)
    return torch.randperm(size, generator=generator, device=device)


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's share of a gathered tensor: (W * B, ...) -> (B, ...)."""
    return tensor.chunk(world_size())[rank()]
