"""Batches for a training: of files by worker processes, of a packed store without any.

One thread runs ahead: it draws the samples of the coming batches, lets a pool of threads copy their
patches from the files into buffers that are reused, and starts their upload while the device still
computes. Reading releases Python's lock.
"""

import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datasets.seco.samples import PatchDataset, collate
from datasets.store.reader import PackedStore
from utils.data import InfiniteDataLoader, SeededSampler
from utils.distributed import to_device
from utils.errors import UserError

Cache = Literal["mmap", "ram", "gpu"]
_AHEAD = 3  # batches that wait for the device, or are being filled
_BUFFERS = _AHEAD + 2  # one is in use, and the one before it may still be
_WINDOW_S = 20.0  # of training, over which waiting is measured
_MOST_WAITING = 0.2  # share of the time that goes unmentioned


def open_loader(
    dataset: PatchDataset,
    sampler: SeededSampler,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    cache: Cache,
) -> "InfiniteDataLoader | StoreLoader | DeviceLoader":
    """Return the loader of a training, whose batches are full.

    Args:
        dataset: Samples of any source.
        sampler: Order of the samples.
        batch_size: Samples of a batch; an incomplete last one is dropped, as in the original: the
            queue and batch norm see full batches only.
        num_workers: Processes that decode files, or threads that copy from a packed store.
        device: Device that trains.
        cache: Where a packed store is read from: its files, memory, or the GPU's memory.

    Raises:
        UserError: The GPU's memory is to be used, but the training is on the CPU.
    """
    source, on_gpu = dataset.source, device.type == "cuda"
    if not isinstance(source, PackedStore):
        return InfiniteDataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate,
            drop_last=True,
            pin_memory=on_gpu,
        )
    if cache == "gpu":
        if not on_gpu:
            raise UserError("--cache gpu needs a GPU: use --cache ram, or train on a GPU")
        return DeviceLoader(dataset, sampler, batch_size, device)
    if cache == "ram":
        source.load()
    return StoreLoader(dataset, sampler, batch_size, num_workers, device)


class StoreLoader:
    """Copy batches from files, or from memory, by threads.

    A batch is valid until the second batch after it is requested, which reuses its buffer.

    Args:
        dataset: Samples of a ``PackedStore``.
        sampler: Order of the samples.
        batch_size: Samples of a batch; an incomplete last one is dropped.
        num_threads: Threads that copy, at least one.
        device: Device that the batches are uploaded to.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        sampler: SeededSampler,
        batch_size: int,
        num_threads: int,
        device: torch.device,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_threads = min(max(1, num_threads), batch_size)
        self.device = device
        self._buffers: list[_Buffer] = []
        self._waiting = Waiting(str(getattr(dataset.source, "root", "the data")))

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches: "patches", uint8, (B, T, C, H, W); "epoch", "index", (B,); names.

        The first process prints once if the training waits for the store.
        """
        if not self._buffers:
            shape = (self.batch_size, self.dataset.num_dates, *self.dataset.source.patch_shape)
            self._buffers = [_Buffer(shape, self.device) for _ in range(_BUFFERS)]
        ahead: deque[Future[dict[str, Any]]] = deque()
        with ThreadPoolExecutor(self.num_threads) as pool, ThreadPoolExecutor(1) as feeder:
            for number, keys in enumerate(_batches(self.sampler, self.batch_size)):
                buffer = self._buffers[number % _BUFFERS]
                ahead.append(feeder.submit(self._fill, pool, buffer, keys))
                if len(ahead) > _AHEAD:
                    asked = time.perf_counter()
                    batch = ahead.popleft().result()
                    received = time.perf_counter()
                    yield _receive(batch)
                    if self.sampler.rank == 0 and number > _BUFFERS:  # an epoch begins with none
                        ended = time.perf_counter()
                        self._waiting.note(received - asked, ended - asked, buffer.patches.nbytes)
            while ahead:
                yield _receive(ahead.popleft().result())

    def _fill(self, pool: ThreadPoolExecutor, buffer: "_Buffer", keys: Tensor) -> dict[str, Any]:
        buffer.wait()
        parts = keys.tensor_split(self.num_threads)
        pixels = np.array_split(buffer.patches.numpy(), self.num_threads)
        found = list(pool.map(self.dataset.read_into, parts, pixels))
        names = {kind: [name for part in found for name in part[kind]] for kind in found[0]}
        return buffer.upload() | {"epoch": keys[:, 0], "index": keys[:, 1]} | names


class Waiting:
    """Print once that the training waits for the store, and how fast that is read.

    Args:
        store: Name of the store.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self._sums = [0.0, 0.0, 0]
        self._is_told = False

    def note(self, waited: float, passed: float, size: int) -> None:
        """Add a batch.

        Args:
            waited: Seconds until it was read.
            passed: Seconds of the whole step.
            size: Bytes of the batch.
        """
        self._sums = [
            old + new for old, new in zip(self._sums, (waited, passed, size), strict=True)
        ]
        all_waited, all_passed, all_bytes = self._sums
        if self._is_told or all_passed < _WINDOW_S:
            return
        self._sums = [0.0, 0.0, 0]
        if all_waited > _MOST_WAITING * all_passed:
            self._is_told = True
            print(
                f"warning: the training waits {all_waited / all_passed:.0%} of its time for "
                f"{self.store}, which is read at {all_bytes / all_passed / 1e6:.1f} MB/s: move it "
                "to a faster disk, or use --cache ram",
                file=sys.stderr,
            )


class DeviceLoader:
    """Batches of a store that is on the device as a whole; only patch numbers are uploaded.

    Args:
        dataset: Samples of a ``PackedStore``.
        sampler: Order of the samples.
        batch_size: Samples of a batch; an incomplete last one is dropped.
        device: Device that keeps all patches.
    """

    def __init__(
        self, dataset: PatchDataset, sampler: SeededSampler, batch_size: int, device: torch.device
    ) -> None:
        assert isinstance(dataset.source, PackedStore)
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self._check = dataset.source.check
        self._patches, self._constant = dataset.source.to_device(device)

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches as ``StoreLoader`` does."""
        for keys in _batches(self.sampler, self.batch_size):
            rows: dict[int, list[int]] = {}

            def note(row: int, patches: list[int], rows: dict[int, list[int]] = rows) -> None:
                for patch in patches:
                    self._check(patch)
                rows[row] = patches

            bad = self.dataset.visit(keys, note)
            numbers = to_device(torch.tensor(list(rows.values())), self._patches.device)
            batch = {"patches": self._patches[numbers], "epoch": keys[:, 0], "index": keys[:, 1]}
            yield batch | {"bad": bad, "constant": self._constant}


def _batches(sampler: SeededSampler, batch_size: int) -> Iterator[Tensor]:
    """Yield epochs and indices of full batches, int64, shape (B, 2)."""
    keys = iter(sampler)
    while len(batch := list(islice(keys, batch_size))) == batch_size:
        yield torch.tensor(batch)


class _Buffer:
    """Memory for the patches of a batch, pinned for a GPU, and their upload to the device."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self.patches = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._uploaded = torch.cuda.Event() if on_gpu else None

    def wait(self) -> None:
        """Wait until the last upload has read the buffer."""
        if self._uploaded is not None:
            self._uploaded.synchronize()

    def upload(self) -> dict[str, Any]:
        """Start the upload of the patches."""
        if self._stream is None or self._uploaded is None:
            return {"patches": self.patches}
        with torch.cuda.stream(self._stream):
            patches = self.patches.to(self.device, non_blocking=True)
            self._uploaded.record(self._stream)
        return {"patches": patches, "uploaded": self._uploaded}


def _receive(batch: dict[str, Any]) -> dict[str, Any]:
    """Let the device's work on a batch begin after its upload."""
    uploaded = batch.pop("uploaded", None)
    if uploaded is not None:
        stream = torch.cuda.current_stream(batch["patches"].device)
        stream.wait_event(uploaded)
        batch["patches"].record_stream(stream)  # its memory is not reused before that work
    return batch
