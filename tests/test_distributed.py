"""Two processes on the CPU (gloo) train on one global batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from models.moco2_module import MocoV2
from utils.distributed import gather, own_part, shared_permutation, world_size

WORLD, BATCH = 2, 4


def model() -> MocoV2:
    torch.manual_seed(0)
    return MocoV2("resnet18", emb_dim=8, num_negatives=16, emb_spaces=1).eval()


def images() -> Tensor:
    return torch.randn(2, WORLD * BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    try:
        moco, (queries, keys) = model(), images()
        logits, _ = moco(own_part(queries), [own_part(keys)])
        permutation = shared_permutation(10, (3, 1), torch.device("cpu"))
        result = {"logits": logits[0], "queue": moco.queue, "permutation": permutation}
        torch.save(result | {"ranks": gather(torch.tensor([rank]))}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # the machine's name need not resolve
    mp.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    whole, (queries, keys) = model(), images()
    expected, _ = whole(queries, [keys])

    logits = torch.cat([result["logits"] for result in results])
    torch.testing.assert_close(logits, expected[0], rtol=0, atol=1e-4)
    for result in results:
        torch.testing.assert_close(result["queue"], whole.queue, rtol=0, atol=1e-5)
        assert torch.equal(result["permutation"], results[0]["permutation"])
        assert result["ranks"].tolist() == [0, 1]


def test_gather_keeps_images_whatever_their_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL, unlike gloo, moves memory as it lies."""

    def copy_memory(parts: list[Tensor], tensor: Tensor) -> None:
        for part in parts:
            part.untyped_storage().copy_(tensor.untyped_storage())

    monkeypatch.setattr("utils.distributed.world_size", lambda: WORLD)
    monkeypatch.setattr(dist, "all_gather", copy_memory)
    batch = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(gather(batch), torch.cat([batch, batch]))


def test_one_process_needs_no_process_group() -> None:
    tensor = torch.arange(6)
    assert world_size() == 1
    assert torch.equal(gather(tensor), tensor)
    assert torch.equal(own_part(tensor), tensor)


def test_permutations_differ_between_steps_and_views() -> None:
    device = torch.device("cpu")
    drawn = {
        tuple(shared_permutation(50, (step, view), device).tolist())
        for step in range(20)
        for view in range(3)
    }
    assert len(drawn) == 60
