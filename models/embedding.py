"""Features of any imagery, block by block, which a killed run resumes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from models.backbones import Encoder
from models.embedding_parts import Parts
from models.features import encoder_of_pictures
from utils.folders import held, make_folder
from utils.launch import World
from utils.patch_blocks import PatchBlocks
from utils.progress import progress

_POLL_S = 0.5
T = TypeVar("T")


def embed_blocks(
    encoder: Encoder,
    patches: PatchBlocks,
    parts: Parts,
    *,
    batch_size: int,
    num_threads: int,
    device: torch.device,
    precision: str,
    dtype: str,
    world: World,
) -> None:
    """Compute the features of all blocks that are missing, this process's share of them.

    Args:
        encoder: Encoder of the patches.
        patches: What to embed.
        parts: Finished blocks; read, and added to.
        batch_size: Patches per step.
        num_threads: Threads that read blocks while the encoder computes.
        device: Where to compute.
        precision: A key of ``PRECISIONS``.
        dtype: Type of the features on disk, "float16" or "float32".
        world: Processes that share the blocks.
    """
    encode = encoder_of_pictures(encoder, patches.transform, device, precision)
    missing = parts.missing()
    own = [block for block in missing if block % world.size == world.rank]
    begun = patches.num_patches * (parts.num_blocks - len(missing)) // max(1, parts.num_blocks)
    settings: dict[str, Any] = {"total": patches.num_patches, "initial": begun}
    with held(parts.folder), progress(desc="embedding", unit=" patches", **settings) as bar:
        for block, found in zip(own, prefetched(patches.read, own, num_threads), strict=True):
            pictures = torch.from_numpy(found.pictures)
            features = [encode(batch).numpy() for batch in pictures.split(batch_size)]
            # No patch of the block may hold data.
            whole = np.concatenate([np.empty((0, encoder.num_features)), *features])
            parts.write(block, found, whole.astype(dtype))
            bar.update(len(pictures) * world.size)
        bar.update(max(0, patches.num_patches - bar.n))  # those without data


def wait_for(parts: Parts) -> None:
    """Wait until other processes have finished all blocks; their launcher ends this one too."""
    with held(parts.folder):
        while parts.missing():
            make_folder(parts.folder)  # an error if it is lost, and its blocks with it
            time.sleep(_POLL_S)


def prefetched(read: Callable[[int], T], items: Sequence[int], num_threads: int) -> Iterator[T]:
    """Yield what a function returns for each item, in order, with the next ones being read.

    Args:
        read: Called by the threads.
        items: Its arguments.
        num_threads: Number of threads; at most so many results wait.
    """
    if num_threads == 0:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
