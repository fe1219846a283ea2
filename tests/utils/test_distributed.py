"""Processes on the CPU (gloo) take together the step that one process takes on the global batch."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from datasets.store.memory import read_shared
from models.backbones import Encoder
from models.moco2_module import MocoV2
from models.ssl_finetuner import SSLFineTuner
from utils.data import SeededSampler
from utils.distributed import (
    exchange,
    gather,
    own_part,
    rank,
    shared_permutation,
    unshuffle,
    world_size,
)
from utils.errors import UserError

BATCH, SPACES, STEP = 4, 3, 7


def work(
    rank: int, world: int, folder: Path, task: Callable[[], dict[str, Any]], file_name: str
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the machine's name need not resolve
    store = f"file://{folder}/{file_name}.rendezvous"
    dist.init_process_group("gloo", store, rank=rank, world_size=world)
    try:
        torch.save(task(), folder / f"{file_name}.{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_ranks(world: int, folder: Path, task: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a function in connected processes and return what each of them returned."""
    name = f"{task.__name__}.{world}"
    # The server imports torch once, its processes are copies of it.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(work, (world, folder, task, name), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{name}.{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has to report; they are started once."""
    return run_ranks(2, tmp_path_factory.mktemp("pair"), do_everything)


def model() -> MocoV2:
    torch.manual_seed(0)
    return MocoV2("resnet18_slim", emb_dim=8, num_negatives=40, emb_spaces=SPACES)


def images(world: int) -> list[Tensor]:
    """Query and keys of the global batch."""
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(1 + SPACES, world * BATCH, 3, 32, 32, generator=generator))


def step(moco: MocoV2, img_q: Tensor, img_k: list[Tensor], order: Tensor | None) -> dict[str, Any]:
    """Take gradients and fill the queue."""
    logits, targets = moco(img_q, img_k, order)
    torch.stack([F.cross_entropy(scores, targets) for scores in logits]).sum().backward()
    gradients = {name: p.grad for name, p in moco.named_parameters() if p.grad is not None}
    return {"logits": logits, "queue": moco.queue, "gradients": gradients}


# --- what the processes do ---------------------------------------------------------------------


def exchange_rows() -> dict[str, Any]:
    rows = torch.arange(BATCH * 6).view(BATCH, 1, 2, 3) + 100 * rank()
    result: dict[str, Any] = {"gathered": gather(rows)}
    for dtype in (torch.uint8, torch.int64):
        order = shared_permutation(BATCH * world_size(), STEP)
        moved = exchange(rows.to(dtype), order)
        expected = own_part(gather(rows.to(dtype))[order])
        result[str(dtype)] = torch.equal(moved, expected) and moved.dtype == dtype
        result[f"{dtype} returns"] = torch.equal(unshuffle(moved, order), gather(rows.to(dtype)))
    return result | {"order": order}


def step_in_eval_mode() -> dict[str, Any]:
    query, *keys = images(world_size())
    order = shared_permutation(len(query), STEP)
    shuffled = [exchange(own_part(key), order) for key in keys]
    result = step(model().eval(), own_part(query), shuffled, order)
    for gradient in result["gradients"].values():  # as DDP does
        dist.all_reduce(gradient)
        gradient /= world_size()
    return result


def step_in_train_mode() -> dict[str, Any]:
    query, *keys = images(world_size())
    order = shared_permutation(len(query), STEP)
    return step(model(), own_part(query), [exchange(own_part(key), order) for key in keys], order)


def evaluate_one_encoder() -> dict[str, Any]:
    tuner = SSLFineTuner(
        Encoder("resnet18_slim"),
        num_classes=2,
        normalize=Tensor.float,
        multi_label=True,
        score=lambda *_: 0.0,
        learning_rate=1.0,
    )
    tuner.encoder_q.get_buffer("1.running_mean").fill_(rank())
    tuner.on_validation_epoch_start()
    validated = tuner.encoder_q.get_buffer("1.running_mean").clone()
    tuner.encoder_q.get_buffer("1.running_mean").fill_(5 + rank())
    tuner.on_test_epoch_start()
    return {"validated": validated, "tested": tuner.encoder_q.get_buffer("1.running_mean")}


def share_a_file() -> dict[str, Any]:
    """Read this file together; the copy has the same inode in all processes that map it."""
    (content,) = read_shared([Path(__file__)])
    maps = Path("/proc/self/maps").read_text().splitlines()
    inodes = [line.split()[4] for line in maps if f"memfd:{Path(__file__).name}" in line]
    try:
        read_shared([Path("/nowhere/rgb.u8")])
    except UserError as error:
        return {"content": content.tobytes(), "inodes": inodes, "error": str(error)}
    return {}


def do_everything() -> dict[str, Any]:
    return {
        "exchange": exchange_rows(),
        "eval step": step_in_eval_mode(),
        "train step": step_in_train_mode(),
        "evaluate": evaluate_one_encoder(),
        "file": share_a_file(),
    }


# --- what comes out ----------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 4])
def test_exchanged_rows_are_those_of_the_permuted_global_batch(
    world: int, pair: list[dict[str, Any]], tmp_path: Path
) -> None:
    results = [result["exchange"] for result in pair]
    if world > 2:
        results = run_ranks(world, tmp_path, exchange_rows)
    for result in results:
        flags = [value for name, value in result.items() if name.startswith("torch.")]
        assert flags == [True] * 4
        assert torch.equal(result["order"], results[0]["order"])
        assert result["gathered"][:, 0, 0, 0].tolist() == [
            100 * rank + 6 * row for rank in range(world) for row in range(BATCH)
        ]


@pytest.mark.difference("processes")
def test_processes_take_the_step_of_one_with_the_global_batch(pair: list[dict[str, Any]]) -> None:
    """In eval mode, where statistics of batch norm do not depend on the batch."""
    results = [result["eval step"] for result in pair]
    query, *keys = images(len(results))
    expected = step(model().eval(), query, keys, None)
    for space in range(SPACES):
        logits = torch.cat([result["logits"][space] for result in results])
        torch.testing.assert_close(logits, expected["logits"][space], rtol=0, atol=1e-4)
    for result in results:
        torch.testing.assert_close(result["queue"], expected["queue"], rtol=0, atol=1e-6)
        for name, gradient in expected["gradients"].items():
            atol = 1e-4 * float(gradient.abs().max())  # processors round their sums differently
            torch.testing.assert_close(result["gradients"][name], gradient, rtol=0, atol=atol)


@pytest.mark.difference("batch-norm")
def test_keys_share_statistics_with_the_samples_they_are_shuffled_among(
    pair: list[dict[str, Any]],
) -> None:
    results = [result["train step"] for result in pair]
    world = len(results)
    query, *keys = images(world)
    order = shared_permutation(len(query), STEP)
    moco = model()
    expected = moco.queue.clone()  # (S, D, K)
    with torch.no_grad():
        for space, key in enumerate(keys):
            parts = [moco.encoder_k(part) for part in key[order].chunk(world)]
            projected = F.normalize(moco.heads_k[space](torch.cat(parts)), dim=1)
            expected[space, :, order] = projected.T
    beside_their_queries = step(model(), query, keys, None)["queue"]
    for result in results:
        torch.testing.assert_close(result["queue"], expected, rtol=0, atol=1e-5)
        assert (result["queue"] - beside_their_queries).abs().max() > 0.01


def test_gather_keeps_images_in_any_memory_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL, unlike gloo, copies memory without regard to strides."""

    def copy_memory(parts: list[Tensor], tensor: Tensor) -> None:
        for part in parts:
            part.untyped_storage().copy_(tensor.untyped_storage())

    monkeypatch.setattr("utils.distributed.world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", copy_memory)
    batch = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(gather(batch), torch.cat([batch, batch]))


def test_processes_of_a_machine_share_one_copy_of_a_file_and_its_errors(
    pair: list[dict[str, Any]],
) -> None:
    first, second = (result["file"] for result in pair)
    assert first == second
    assert first["content"] == Path(__file__).read_bytes()
    assert len(first["inodes"]) == 1
    assert "/nowhere/rgb.u8" in first["error"]


def test_one_process_needs_no_process_group() -> None:
    tensor, order = torch.arange(6), torch.tensor([3, 0, 5, 1, 2, 4])
    assert world_size() == 1
    assert torch.equal(gather(tensor), tensor)
    assert torch.equal(own_part(tensor), tensor)
    assert exchange(tensor, order).tolist() == order.tolist()
    assert torch.equal(unshuffle(exchange(tensor, order), order), tensor)


def test_permutations_differ_between_steps() -> None:
    drawn = {tuple(shared_permutation(50, step).tolist()) for step in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_step_has_the_same_samples_for_any_number_of_processes(world: int) -> None:
    samples, batch = 107, 8  # of all processes; the last, partial batch is left out
    loaders = [
        list(SeededSampler(samples, 3, epoch=lambda: 5, rank=rank, world_size=world))
        for rank in range(world)
    ]
    alone = list(SeededSampler(samples, 3, epoch=lambda: 5))
    own = batch // world
    assert {len(loader) // own for loader in loaders} == {samples // batch}
    for number in range(samples // batch):
        together = [key for loader in loaders for key in loader[number * own :][:own]]
        assert sorted(together) == sorted(alone[number * batch :][:batch])


def test_evaluation_uses_the_statistics_of_the_first_process(
    pair: list[dict[str, Any]],
) -> None:
    for result in pair:
        assert result["evaluate"]["validated"].eq(0).all()
        assert result["evaluate"]["tested"].eq(5).all()
