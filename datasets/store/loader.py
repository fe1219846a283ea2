"""Batches from a packed store, without worker processes.

One thread runs ahead: it draws the samples of the coming batches, lets a pool of threads copy their
patches out of the memory maps into buffers that are used again and again, and starts their upload
while the device still computes. Copies of this size release Python's lock.
"""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import islice
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.seco.bad_patches import first_good
from datasets.seco.samples import PatchDataset
from datasets.store.reader import PackedStore
from utils.data import SeededSampler
from utils.distributed import to_device

_AHEAD = 2  # batches that wait for the device
# One more is being filled, one is in use, and one may still be when the next is asked for.
_BUFFERS = _AHEAD + 3


class StoreLoader:
    """Copy batches from memory maps, or from memory, by threads.

    A batch is valid until the one after the next is asked for: its buffer is used again.

    Args:
        dataset: Samples of a ``PackedStore``.
        sampler: Order of the samples.
        batch_size: Samples of a batch; an incomplete last one is dropped.
        num_threads: Threads that copy.
        device: Where the batches are wanted.
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
        self._store = _store(dataset)
        self._buffers: list[_Buffer] = []

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches: "patches", uint8, (B, T, C, H, W); "epoch", "index", (B,); "bad" names."""
        if not self._buffers:
            shape = (self.batch_size, self.dataset.num_dates, *self.dataset.source.patch_shape)
            self._buffers = [_Buffer(shape, self.device) for _ in range(_BUFFERS)]
        ready: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(_AHEAD)
        stop = Event()
        feeder = Thread(target=self._feed, args=(ready, stop), daemon=True)
        feeder.start()
        try:
            while (batch := ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                yield _receive(batch)
        finally:
            stop.set()
            while feeder.is_alive():  # it may wait for a place in the queue
                _discard(ready)
                feeder.join(timeout=0.01)

    def _feed(self, ready: "queue.Queue[Any]", stop: Event) -> None:
        try:
            with ThreadPoolExecutor(self.num_threads) as pool:
                for number, (epochs, indices) in enumerate(draw_batches(self)):
                    if stop.is_set():
                        return
                    buffer = self._buffers[number % _BUFFERS]
                    ready.put(self._fill(pool, buffer, epochs, indices))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    def _fill(
        self, pool: ThreadPoolExecutor, buffer: "_Buffer", epochs: Tensor, indices: Tensor
    ) -> dict[str, Any]:
        patches, bad = draw_good(self.dataset, epochs, indices)
        buffer.wait()
        rows = patches.numpy()
        parts = [slice(t, None, self.num_threads) for t in range(self.num_threads)]
        copies = [pool.submit(self._copy, rows[part], buffer.array[part]) for part in parts]
        for copy in wait(copies).done:
            copy.result()
        return buffer.upload() | {"epoch": epochs, "index": indices, "bad": bad}

    def _copy(self, patches: np.ndarray, target: np.ndarray) -> None:
        """Copy patches (B, T) into an array (B, T, C, H, W)."""
        copy = self._store.copy
        for sample, numbers in zip(target, patches.tolist(), strict=True):
            for pixels, number in zip(sample, numbers, strict=True):
                copy(number, pixels)


class DeviceLoader:
    """Batches of a store that lies on the device as a whole; nothing is uploaded but numbers.

    Args:
        dataset: Samples of a ``PackedStore``.
        sampler: Order of the samples.
        batch_size: Samples of a batch; an incomplete last one is dropped.
        device: Where the patches are kept.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        sampler: SeededSampler,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.device = device
        self._patches = _store(dataset).to_device(device)

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches as ``StoreLoader`` does."""
        for epochs, indices in draw_batches(self):
            patches, bad = draw_good(self.dataset, epochs, indices)
            numbers = to_device(patches, self.device)
            yield {
                "patches": self._patches[numbers],
                "epoch": epochs,
                "index": indices,
                "bad": bad,
            }


def draw_batches(loader: StoreLoader | DeviceLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield epochs and indices of full batches, int64, shape (B,) each."""
    keys = iter(loader.sampler)
    for _ in range(len(loader)):
        batch = torch.tensor(list(islice(keys, loader.batch_size)))
        yield batch[:, 0], batch[:, 1]


def draw_good(dataset: PatchDataset, epochs: Tensor, indices: Tensor) -> tuple[Tensor, list[str]]:
    """Draw the patches of samples, or of those that stand in for bad ones.

    Returns:
        Numbers of patches, int64, shape (B, T), and the names of the bad ones.
    """
    store = _store(dataset)

    def draw_one(epoch: Tensor, index: int) -> Tensor:
        patches = dataset.draw(epoch[None], torch.tensor([index]))[0]
        for patch in patches.tolist():
            store.check(patch)
        return patches

    patches, names = dataset.draw(epochs, indices), []
    for row in np.flatnonzero(store.are_bad(patches.numpy()).any(axis=1)):
        patches[row], bad = first_good(
            partial(draw_one, epochs[row]), int(indices[row]), len(dataset), dataset.on_bad_patch
        )
        names += bad
    return patches, names


class _Buffer:
    """Room for the patches of a batch, pinned where a GPU reads it, and their way to the device."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self.patches = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        self.array = self.patches.numpy()
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
        batch["patches"].record_stream(stream)  # its memory is not reused before
    return batch


def _discard(ready: "queue.Queue[Any]") -> None:
    with suppress(queue.Empty):
        ready.get_nowait()


def _store(dataset: PatchDataset) -> PackedStore:
    if not isinstance(dataset.source, PackedStore):
        raise TypeError(f"{type(dataset.source).__name__} is no packed store")
    return dataset.source
