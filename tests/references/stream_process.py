"""One of the processes that share a stream; apart, so that it imports no more than it needs."""

from pathlib import Path
from typing import Any

import torch

from datasets.seco.bad_patches import OnBadPatch
from datasets.seco.samples import PatchDataset, collate
from datasets.store.litdata import StreamedPlaces
from datasets.store.litdata_loader import ChunkOrder
from utils.data import InfiniteDataLoader

BATCH_SIZE = 4
SEED = 7
WORLD = 2
MODES: dict[str, dict[str, Any]] = {
    "seco": {"num_dates": 3},
    "paper": {"num_dates": 3, "replace": True},
    "moco": {"every_date": True},
}
Batches = list[dict[str, Any]]


def make_loader(
    root: str | Path,
    mode: str = "seco",
    num_workers: int = 0,
    epoch: int = 2,
    batch_size: int = BATCH_SIZE,
    on_bad_patch: OnBadPatch = "raise",
    done: int = 0,
    **shares: int,
) -> InfiniteDataLoader:
    source = StreamedPlaces(Path(root))
    dataset = PatchDataset(source, seed=SEED, on_bad_patch=on_bad_patch, **MODES[mode])
    bounds = source.first_samples(dataset.every_date)
    order = ChunkOrder(bounds, SEED, epoch=lambda: epoch, done=lambda: done, **shares)
    settings: dict[str, Any] = {"sampler": order, "drop_last": True, "collate_fn": collate}
    return InfiniteDataLoader(dataset, batch_size, num_workers=num_workers, **settings)


def assert_equal(batches: Batches, expected: Batches) -> None:
    assert len(batches) == len(expected) > 0
    for batch, wanted in zip(batches, expected, strict=True):
        assert batch["bad"] == wanted["bad"]
        for name in ("patches", "epoch", "index"):
            assert torch.equal(batch[name], wanted[name])


def work(rank: int, bucket: str, folder: str, num_workers: int) -> None:
    """Stream an epoch and save what came; then the end of it, as after an interruption."""
    loader = make_loader(bucket, num_workers=num_workers, rank=rank, world_size=WORLD)
    batches = list(loader)
    rest = make_loader(
        bucket, num_workers=num_workers, done=3 * BATCH_SIZE, rank=rank, world_size=WORLD
    )
    assert_equal(list(rest), batches[3:])
    torch.save(batches, f"{folder}/{rank}.pt")
