"""One of the processes that share a stream; apart, so that it imports no more than it needs."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from datasets.seco.samples import PatchDataset
from datasets.store.litdata import StreamedPlaces
from datasets.store.litdata_loader import LitDataLoader

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
    root: str | Path, mode: str = "seco", num_workers: int = 0, epoch: int = 2, **options: Any
) -> LitDataLoader:
    dataset = PatchDataset(StreamedPlaces(Path(root)), seed=SEED, **MODES[mode])
    return LitDataLoader(dataset, BATCH_SIZE, num_workers, epoch=lambda: epoch, **options)


def assert_equal(batches: Batches, expected: Batches) -> None:
    assert len(batches) == len(expected) > 0
    for batch, wanted in zip(batches, expected, strict=True):
        assert batch["bad"] == wanted["bad"]
        for name in ("patches", "epoch", "index"):
            assert torch.equal(batch[name], wanted[name])


def work(rank: int, bucket: str, folder: str, num_workers: int) -> None:
    """Stream an epoch and save what came; then the end of it, as after an interruption."""
    address = {"init_method": f"file://{folder}/gloo", "rank": rank, "world_size": WORLD}
    dist.init_process_group("gloo", **address)  # type: ignore[arg-type]
    loader = make_loader(
        bucket,
        num_workers=num_workers,
        rank=rank,
        world_size=WORLD,
        cache_dir=Path(folder, "cache"),
    )
    batches = list(loader)
    lengths: list[int] = [0] * WORLD
    dist.all_gather_object(lengths, len(batches))
    assert lengths == [len(loader)] * WORLD
    loader.load_state_dict(loader.state_dict() | {"batches": 3})
    assert_equal(list(loader), batches[3:])
    torch.save(batches, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
