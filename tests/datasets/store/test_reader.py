"""Stores with damage or contradictions, and what may be kept in memory."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets import seco_packed
from datasets.bands import RGB_BANDS
from datasets.seco.patches import SecoPatches
from datasets.store import memory
from datasets.store import reader as packed_store
from datasets.store.open import open_patches
from datasets.store.reader import PackedStore
from tests.references.seco_files import pack
from utils.errors import UserError

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def packed(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 24 patches, B4 B3 B2 B8. Read only."""
    root = tmp_path_factory.mktemp("packed") / "store"
    pack(seco_root, root, "--bands", *RGB_BANDS, "B8")
    return root


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(packed, tmp_path / "store"))


def edit(store: Path, change: Edit) -> None:
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_store_cut_short_names_its_file(store: Path) -> None:
    path = store / "rgb-00000.u8"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"rgb-00000\.u8 has 165887 bytes instead of 165888: copy"):
        PackedStore(store)
    path.unlink()
    with pytest.raises(
        UserError, match=r"rgb-00000\.u8 is missing: copy the store again, or delete"
    ):
        PackedStore(store)


def test_store_that_shrinks_while_it_is_read_names_its_file(store: Path) -> None:
    """A memory map would end the process by SIGBUS."""
    found = PackedStore(store, RGB_BANDS)
    first = found.read(0).copy()
    os.truncate(store / "rgb-00000.u8", 3 * 48 * 48 * 20)
    np.testing.assert_array_equal(found.read(0), first)
    with pytest.raises(UserError, match=r"rgb-00000\.u8 became shorter while it was read: copy"):
        found.read(20)


def test_store_in_files_of_4_gb_is_read_and_verified(store: Path, seco_root: Path) -> None:
    """Until December 2026 a group was cut into such files; here of ten patches."""
    sizes, name = (10, 10, 4), "{}-{:05}.u8".format
    for group, planes in (("rgb", 3), ("other", 1)):
        rows = np.fromfile(store / name(group, 0), np.uint8).reshape(24, planes, 48, 48)
        for number, part in enumerate(np.split(rows, [10, 20])):
            part.tofile(store / name(group, number))

    def cut(content: dict[str, Any]) -> None:
        for group, key in zip(content["groups"], ("rgb", "other"), strict=True):
            names = [name(key, number) for number in range(3)]
            hashes = [hashlib.sha256((store / file).read_bytes()).hexdigest() for file in names]
            parts = zip(names, sizes, hashes, strict=True)
            group["shards"] = [{"file": f, "num_patches": n, "sha256": h} for f, n, h in parts]

    edit(store, cut)
    seco_packed.main(["--verify", "--save_path", str(store)])
    (store / "quantiles.json").write_text('{"quantiles": {"B8": [3, 99]}}')
    bands = ("B4", "B8")
    found, expected = PackedStore(store, bands), SecoPatches(seco_root, bands)
    found.load()
    for patch in range(24):
        np.testing.assert_array_equal(found.read(patch), expected.read(patch))
    (store / name("rgb", 1)).unlink()
    with pytest.raises(UserError, match=r"rgb-00001\.u8 is missing: copy the store again"):
        PackedStore(store)


def test_manifest_of_another_version_is_refused(store: Path) -> None:
    edit(store, lambda content: content.update(format_version=2))
    with pytest.raises(UserError, match=r"of another version .*2.*: pack the data again with"):
        PackedStore(store)


def test_bands_and_lists_that_do_not_fit_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="packed without B5 B1: choose --bands among B4 B3 B2 B8"):
        open_patches(packed, ["B5", "B4", "B1"])
    with pytest.raises(UserError, match="--image_list is for pictures"):
        open_patches(packed, RGB_BANDS, tmp_path)
    with pytest.raises(UserError, match=r"no quantiles for B8: run"):
        _ = open_patches(packed, ["B8"]).input_spec


def test_quantiles_may_be_measured_after_packing(store: Path) -> None:
    (store / "quantiles.json").write_text('{"quantiles": {"B8": [3, 99]}}')
    assert PackedStore(store, ["B8"]).input_spec.high == (99.0,)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(kind="films"),
        lambda c: c.update(places=[]),
        lambda c: c.update(places=[1, 2]),
        lambda c: c.update(places=["no dates"] * 6),
        lambda c: c.update(places=c["places"][:5]),
        lambda c: c.update(places=7),
        lambda c: c.update(height=0),
        lambda c: c.update(height=48.0),
        lambda c: c.update(width=10**9),
        lambda c: c.update(quantiles={"B8": [9, 3]}),
        lambda c: c.update(groups=[]),
        lambda c: c["groups"][0].update(bands=["B4", "B4", "B2"]),
        lambda c: c["groups"][0].update(bands=["R", "G", "B"]),
        lambda c: c["groups"][0]["shards"][0].update(file="../rgb-00000.u8"),
        lambda c: c["groups"][0]["shards"][0].update(file="/etc/passwd"),
        lambda c: c["groups"][0]["shards"][0].update(num_patches=-24),
        lambda c: c["groups"][0]["shards"][0].update(num_patches=23),
        lambda c: c["groups"][0]["shards"][0].update(num_patches=True),
        lambda c: c["groups"][0]["shards"][0].update(sha256="0"),
        lambda c: c["groups"][0]["shards"][0].update(more=1),
        lambda c: c["groups"][0].update(shards=[]),
        lambda c: c.update(flaws=[{"patch": 24, "band": "B4", "reason": "x"}]),
        lambda c: c.update(flaws=[{"patch": 0, "band": "B9", "reason": "x"}]),
        lambda c: c.update(flaws=[{"patch": 0, "band": "B4", "reason": ["x"]}]),
        lambda c: c.update(flaws=[[]]),
        lambda c: c.pop("quantiles"),
    ],
)
def test_manifest_that_no_packing_writes_is_refused(store: Path, change: Edit) -> None:
    edit(store, change)
    with pytest.raises(UserError, match=r"manifest\.json is damaged .*\(.*\): pack the data again"):
        PackedStore(store)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "zarr"}', "[" * 10**5, "\xff"])
def test_other_json_is_refused(store: Path, content: str) -> None:
    (store / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        PackedStore(store)


def test_copy_in_memory_and_on_the_device_is_the_same(
    packed: Path, seco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = SecoPatches(seco_root)
    store = PackedStore(packed, RGB_BANDS)
    monkeypatch.setattr(packed_store, "_CHUNK_BYTES", 5 * 3 * 48 * 48)
    resident, constant = store.to_device(torch.device("cpu"))
    assert constant == []
    store.load()
    assert str(packed) not in Path("/proc/self/maps").read_text()  # only the copy is mapped
    for patch in range(24):
        np.testing.assert_array_equal(store.read(patch), expected.read(patch))
        np.testing.assert_array_equal(resident[patch].numpy(), expected.read(patch))


def test_store_that_does_not_fit_into_memory_says_so(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"needs 0\.0 GB of memory, .* use --cache mmap"):
        PackedStore(packed, RGB_BANDS).load()

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match=r"needs 0\.0 GB on cpu, which has less free: use"):
        PackedStore(packed, RGB_BANDS).to_device(torch.device("cpu"))


def test_store_can_be_sent_to_a_spawned_process(packed: Path) -> None:
    store = PackedStore(packed, RGB_BANDS)
    store.read(0)
    data = pickle.dumps(store)
    assert len(data) < 10_000
    np.testing.assert_array_equal(pickle.loads(data).read(3), store.read(3))


def test_bands_that_are_not_requested_are_not_opened(seco_root: Path, tmp_path: Path) -> None:
    pack(seco_root, tmp_path / "store", "--bands", "B8", "B2", "B3", "B4")
    store = PackedStore(tmp_path / "store", RGB_BANDS)
    for patch in range(24):
        store.read(patch)
    assert list(store._descriptors) == ["rgb-00000.u8"]
    assert {path.name: path.stat().st_size for path in store.root.glob("*.u8")} == {
        "rgb-00000.u8": 24 * 3 * 48 * 48,
        "other-00000.u8": 24 * 48 * 48,
    }
