"""The same batches whatever holds the patches, and however many threads copy them."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets import seco_packed
from datasets.bands import RGB_BANDS
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.samples import PatchDataset, collate
from datasets.store import loader as store_loader
from datasets.store.loader import DeviceLoader, StoreLoader, Waiting
from datasets.store.open import open_patches
from datasets.store.reader import PackedStore
from tests.references.recorded_batches import assert_same, fit, make
from tests.references.seco_files import zip_folder
from tests.references.waiting import wait_until
from utils.data import SeededSampler
from utils.errors import UserError
from utils.reading import watch_reading

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def packed(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The patches of ``seco_root``. Read only."""
    root = tmp_path_factory.mktemp("packed") / "store"
    flags = ["--save_path", str(root), "--num_workers", "0"]
    seco_packed.main(["--data_dir", str(seco_root), *flags])
    return root


def samples(root: Path, **kwargs: Any) -> PatchDataset:
    return PatchDataset(open_patches(root, RGB_BANDS), **{"num_dates": 3, "seed": 5} | kwargs)


def order(dataset: PatchDataset, epochs: int = 1) -> SeededSampler:
    counter = iter(range(epochs))
    return SeededSampler(len(dataset), seed=5, epoch=lambda: next(counter))


def assert_same_batches(loader: Any, expected: Any, epochs: int) -> None:
    for _ in range(epochs):
        number = 0
        for batch, other in zip(loader, expected, strict=True):
            number += 1
            assert batch.keys() == other.keys()
            assert batch["bad"] == other["bad"]
            for name in ("patches", "epoch", "index"):
                assert torch.equal(batch[name], other[name])
        assert number == len(loader) == len(expected)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize(
    "kwargs", [{}, {"num_dates": 2}, {"every_date": True}, {"replace": True}], ids=str
)
def test_batches_are_those_of_the_folder(
    seco_root: Path, packed: Path, kwargs: dict[str, Any], num_threads: int
) -> None:
    folder, store = samples(seco_root, **kwargs), samples(packed, **kwargs)
    reader = DataLoader(folder, 4, sampler=order(folder, 3), drop_last=True, collate_fn=collate)
    loader = StoreLoader(store, order(store, 3), 4, num_threads, CPU)
    assert_same_batches(loader, reader, epochs=3)


def test_a_slow_store_is_named_once_with_its_rate(
    packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = samples(packed)
    fill = store.read_into

    def read_slowly(*given: Any) -> Any:
        time.sleep(0.02)
        return fill(*given)

    monkeypatch.setattr(store, "read_into", read_slowly)
    monkeypatch.setattr(store_loader, "_BUFFERS", 4)
    monkeypatch.setattr(store_loader, "_AHEAD", 1)
    monkeypatch.setattr(store_loader, "_WINDOW_S", 0.0)
    for _ in StoreLoader(store, order(store), 1, 1, CPU):  # nothing but waiting
        pass
    found = capsys.readouterr().err
    assert re.fullmatch(
        rf"warning: the training waits \d+% of its time for {packed}, which is read at "
        r"\d+\.\d MB/s: move it to a faster disk, or use --cache ram\n",
        found,
    )


@pytest.mark.parametrize(("waited", "is_told"), [(0.1, False), (0.3, True)])
def test_waiting_is_measured_over_a_while(
    waited: float, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = Waiting("store")
    waiting.note(15.0, 15.0, 10**6)
    assert capsys.readouterr().err == ""
    waiting = Waiting("store")
    for _ in range(60):
        waiting.note(waited, 1.0, 2 * 10**6)
    assert capsys.readouterr().err == is_told * (
        "warning: the training waits 30% of its time for store, which is read at 2.0 MB/s: move it "
        "to a faster disk, or use --cache ram\n"
    )


def test_batches_on_the_device_are_those_of_the_folder(seco_root: Path, packed: Path) -> None:
    folder, store = samples(seco_root), samples(packed)
    reader = DataLoader(folder, 2, sampler=order(folder, 3), drop_last=True, collate_fn=collate)
    assert_same_batches(DeviceLoader(store, order(store, 3), 2, CPU), reader, epochs=3)


def test_training_sees_the_same_views_from_every_source(
    seco_root: Path, packed: Path, tmp_path: Path
) -> None:
    _, expected = fit(make(seco_root), 2)
    archive = zip_folder(seco_root, tmp_path / "s.zip", "seco/")
    for data_dir, changes in (
        (archive, {}),
        (archive, {"num_workers": 2}),
        (packed, {}),
        (packed, {"num_workers": 2}),
        (packed, {"cache": "ram"}),
    ):
        assert_same(expected, fit(make(data_dir, **changes), 2)[1])


@pytest.mark.parametrize("kind", [StoreLoader, DeviceLoader])
def test_bad_patches_are_replaced_or_raised_as_from_the_folder(
    packed: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    monkeypatch.setattr("datasets.seco.bad_patches.MAX_BAD_FRACTION", 0.5)
    extra = (1, CPU) if kind is StoreLoader else (CPU,)
    for on_bad_patch in ("skip", "raise"):
        store = samples(packed, every_date=True, on_bad_patch=on_bad_patch)
        assert isinstance(store.source, PackedStore)
        for row in (3, 4, 11):
            store.source._errors[row] = (f"place {row}", "is missing")
        loader = kind(store, order(store, 2), 6, *extra)
        if on_bad_patch == "raise":
            with pytest.raises(BadPatchError, match=r"place \d+ is missing"):
                list(loader)
            continue
        reader = DataLoader(store, 6, sampler=order(store, 2), drop_last=True, collate_fn=collate)
        bad = []
        for batch, other in zip(loader, reader, strict=True):
            assert torch.equal(batch["patches"], other["patches"])
            assert batch["bad"] == other["bad"]
            bad += batch["bad"]
        assert set(bad) == {"place 3", "place 4", "place 11"}


def test_error_of_a_copying_thread_reaches_the_loop(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: PackedStore, patch: int, pixels: np.ndarray) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(PackedStore, "_copy", fail)
    store = samples(packed)
    with pytest.raises(OSError, match="the disk is gone"):
        list(StoreLoader(store, order(store), 2, 2, CPU))


def test_threads_end_when_the_loop_ends_early(packed: Path) -> None:
    store = samples(packed, every_date=True)
    watch_reading()  # its thread stays
    before = threading.active_count()
    for _ in StoreLoader(store, order(store), 2, 2, CPU):
        break
    wait_until(lambda: threading.active_count() == before)


def test_batch_stays_as_it_is_while_the_next_is_used(packed: Path) -> None:
    store = samples(packed, every_date=True)
    loader = StoreLoader(store, order(store, 2), 2, 1, CPU)
    previous: tuple[torch.Tensor, torch.Tensor] | None = None
    addresses = set()
    for batch in loader:
        time.sleep(0.01)  # the feeder runs as far ahead as it may
        if previous is not None:
            assert torch.equal(*previous)
        previous = (batch["patches"], batch["patches"].clone())
        addresses.add(batch["patches"].data_ptr())
    assert len(addresses) == store_loader._BUFFERS


def test_cache_that_cannot_be_is_refused(seco_root: Path, packed: Path) -> None:
    with pytest.raises(UserError, match=r"cache ram is for packed stores, .*pack it with"):
        make(seco_root, cache="ram").setup()
    with pytest.raises(UserError, match="--cache gpu needs a GPU: use --cache ram"):
        fit(make(packed, cache="gpu"), 1)


def test_sampling_does_not_depend_on_the_batch(packed: Path) -> None:
    store = samples(packed)
    epochs, indices = torch.tensor([0, 0, 3, 3]), torch.tensor([5, 2, 2, 5])
    together = store.draw(epochs, indices)
    for row, (epoch, index) in enumerate(zip(epochs, indices, strict=True)):
        assert torch.equal(store.draw(epoch[None], index[None])[0], together[row])


def test_ragged_places_draw_only_their_own_dates() -> None:
    class Source:
        starts = np.array([0, 3, 10, 14])
        patch_shape = (1, 1, 1)

        def name(self, patch: int) -> str:
            return str(patch)

    for replace in (False, True):
        dataset = PatchDataset(Source(), 3, replace=replace)  # type: ignore[arg-type]
        epochs = torch.arange(300).repeat_interleave(3)
        indices = torch.arange(3).repeat(300)
        drawn = dataset.draw(epochs, indices).view(300, 3, 3)
        for place, (first, end) in enumerate([(0, 3), (3, 10), (10, 14)]):
            assert drawn[:, place].unique().tolist() == list(range(first, end))
        if not replace:
            assert all(len(set(dates)) == 3 for dates in drawn.view(-1, 3).tolist())
