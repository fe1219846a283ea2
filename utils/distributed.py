"""Exchange of tensors between W processes with B samples each; the identity for one process."""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
    tensor = tensor.contiguous()  # NCCL copies memory in its order, which mixes up other layouts
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def gather_objects(value: T) -> list[T]:
    """Return the small values of all processes in order of rank; also waits for all of them."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's share of a gathered tensor: (W * B, ...) -> (B, ...)."""
    return tensor.chunk(world_size())[rank()]


def shared_permutation(size: int, step: int) -> Tensor:
    """Draw a permutation of ``range(size)`` on the CPU, the same one in all processes.

    Args:
        size: Number of elements.
        step: Step of the training, which seeds the draw.
    """
    return torch.randperm(size, generator=torch.Generator().manual_seed(step))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor without waiting for the device.

    Args:
        tensor: Tensor on the CPU.
        device: Target of the copy.
    """
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


@torch.no_grad()
def exchange(tensor: Tensor, order: Tensor) -> Tensor:
    """Return ``own_part(gather(tensor)[order])``; each row travels once.

    Args:
        tensor: This process's rows, shape (B, ...).
        order: Permutation of the W * B rows of all processes, on the CPU, equal in all of them.
    """
    batch, this = len(tensor), rank()
    source, row = order // batch, order % batch
    if world_size() == 1:
        return tensor.index_select(0, to_device(row, tensor.device))
    target = torch.arange(len(order)) // batch
    counts = torch.zeros(world_size(), world_size(), dtype=torch.long)
    counts.index_put_((source, target), torch.ones_like(order), accumulate=True)
    sent = tensor.index_select(0, to_device(row[source == this], tensor.device))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, counts[:, this].tolist(), counts[this].tolist())
    # Rows arrive by source; within a source, in the order in which they are wanted.
    arrival = own_part(source).argsort(stable=True)
    return received.index_select(0, to_device(arrival.argsort(), tensor.device))


def unshuffle(tensor: Tensor, order: Tensor) -> Tensor:
    """Gather rows that ``exchange`` has moved, in their original order: shape (W * B, ...).

    Args:
        tensor: Rows of this process, shape (B, ...).
        order: Permutation that ``exchange`` took, on the device of the rows, shape (W * B,).
    """
    return gather(tensor)[order.argsort()]
