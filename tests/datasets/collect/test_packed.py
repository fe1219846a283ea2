"""A collection straight into a packed store: the pixels of the folder, whatever interrupts it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import seco_downloader
from datasets.collect.blocks import blocks_of
from datasets.collect.collector import Collector
from datasets.collect.fetch import Ending, Fetch, Patience
from datasets.collect.journal import Journal, read_journals
from datasets.collect.packed import PackedCollection
from datasets.collect.plan import Plan
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.scenes import ComeBack
from datasets.collect.writer import PlaceWriter
from datasets.miniature.services.earth_engine import earth_engine
from datasets.seco.patches import SecoPatches
from datasets.store.manifest import MANIFEST_NAME
from datasets.store.reader import PackedStore
from datasets.store.rows import verify_store
from datasets.store.writer import pack
from tests.references.fetch_runs import SETTINGS, fetch, plan_in
from tests.servers.fake_source import FakeSource
from utils.errors import UserError

BANDS = ("B2", "B3", "B4", "B8A", "B9")  # of all resolutions, and both groups of a store
FOLDER = replace(SETTINGS, bands=BANDS)
PACKED = replace(FOLDER, format="packed")


def collect(
    save_path: Path, plan: Plan, source: FakeSource, shard: tuple[int, int] = (0, 1)
) -> tuple[Ending, bool]:
    """Fetch a shard; tell how it ended, and whether the store is whole."""
    requester = Requester(RateLimit(8, 1e6), base_wait_s=1e-3)
    store, journal = PackedCollection(save_path, plan), Journal(save_path, plan.hash, shard)
    with journal.opened():
        store.open()
        writer = PlaceWriter(save_path, plan.settings, source.describe(), shard, store.places)
        run = Fetch(
            Collector(plan, source, requester, writer),
            journal,
            blocks_of(plan, None, shard),
            read_journals(save_path, plan.hash),
            num_workers=4,
            patience=Patience(min_free_bytes=0),
            on_block=store.pack,
        )
        ending = run.run()
        writer.clear()
    return ending, store.finish(read_journals(save_path, plan.hash))


def contents(store: PackedStore) -> dict[str, np.ndarray]:
    return {store.name(patch): store.read(patch) for patch in range(int(store.starts[-1]))}


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same plan as a folder that is packed afterwards. Read only."""
    root = tmp_path_factory.mktemp("packed")
    plan = plan_in(root / "folder", FOLDER)
    assert fetch(root / "folder", plan, FakeSource(plan.settings)) == Ending("complete")
    pack(SecoPatches(root / "folder", BANDS), root / "store", 0)
    return root / "store"


def assert_same(save_path: Path, packed_folder: Path) -> None:
    store, expected = PackedStore(save_path, BANDS), PackedStore(packed_folder, BANDS)
    found, wanted = contents(store), contents(expected)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    verify_store(save_path, 1)
    assert not list(save_path.glob(".*"))


def test_the_store_holds_what_packing_the_folder_gives(packed_folder: Path, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "c", PACKED)

    assert collect(tmp_path / "c", plan, FakeSource(plan.settings)) == (Ending("complete"), True)
    assert_same(tmp_path / "c", packed_folder)


def test_an_interrupted_store_goes_on(packed_folder: Path, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "c", PACKED)
    for _ in range(3):
        left = iter(range(20))

        def fault(kind: str, left: Any = left) -> None:
            if next(left, None) is None:
                raise ComeBack("enough")

        collect(tmp_path / "c", plan, FakeSource(plan.settings, fault=fault))
        assert not (tmp_path / "c" / MANIFEST_NAME).exists()
        known = set(read_journals(tmp_path / "c", plan.hash))
    last = FakeSource(plan.settings)

    assert collect(tmp_path / "c", plan, last) == (Ending("complete"), True)
    assert not known & set(last.searched)
    assert_same(tmp_path / "c", packed_folder)


def test_rows_are_written_again_if_their_files_are_still_there(
    packed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the rows and the removal of the files."""
    plan = plan_in(tmp_path / "c", PACKED)
    with monkeypatch.context() as killed:
        killed.setattr(
            "datasets.collect.packed.write_rows", lambda *_: (_ for _ in ()).throw(KeyError())
        )
        with pytest.raises(KeyError):
            collect(tmp_path / "c", plan, FakeSource(plan.settings))
    waiting = list((tmp_path / "c" / ".places").iterdir())
    assert len(waiting) >= 5

    assert collect(tmp_path / "c", plan, FakeSource(plan.settings)) == (Ending("complete"), True)
    assert_same(tmp_path / "c", packed_folder)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_shard_that_was_lost_is_named_and_not_replaced_by_zeros(
    tmp_path: Path, is_lost: bool
) -> None:
    store = PackedCollection(tmp_path, plan_in(tmp_path, PACKED))
    store.open()
    shard = next(tmp_path.glob("*.u8"))
    store.open(has_begun=True)
    if is_lost:
        shard.unlink()
    else:
        os.truncate(shard, 5)

    with pytest.raises(UserError, match=f"{shard.name} is missing or cut off"):
        store.open(has_begun=True)


def test_files_of_4_gb_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before December 2026 a group of bands was cut into such files; here of two rows."""
    store = PackedCollection(tmp_path, plan_in(tmp_path, PACKED))
    store.open()
    whole = tmp_path / "rgb-00000.u8"
    row_bytes = 3 * PACKED.patch_px**2
    content = np.random.default_rng(0).bytes(whole.stat().st_size)
    for number, start in enumerate(range(0, len(content), 2 * row_bytes)):
        part = content[start : start + 2 * row_bytes]
        (tmp_path / f"rgb-{number:05}.u8").write_bytes(part)
    monkeypatch.setattr("datasets.collect.packed._PART_BYTES", 3 * row_bytes - 1)
    store.open(has_begun=True)
    assert whole.read_bytes() == content
    assert not (tmp_path / "rgb-00001.u8").exists()


def test_the_last_shard_makes_the_store_whole(packed_folder: Path, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "c", PACKED)
    first = collect(tmp_path / "c", plan, FakeSource(plan.settings), (0, 2))
    second = collect(tmp_path / "c", plan, FakeSource(plan.settings), (1, 2))

    assert (first, second) == ((Ending("complete"), False), (Ending("complete"), True))
    assert_same(tmp_path / "c", packed_folder)


def test_the_command_makes_and_verifies_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        *("--save_path", str(tmp_path / "c"), "--num_locations", "3", "--patch_px", "12"),
        *("--no_land_mask", "--format", "packed", "--num_dates", "2", "--min_free_gb", "0"),
    ]
    seco_downloader.main([*argv, "--plan"])
    with pytest.raises(SystemExit) as leaving:
        seco_downloader.main(["--save_path", str(tmp_path / "c"), "--verify"])
    assert leaving.value.code == 1
    assert "0 of 3 places, not yet a store" in capsys.readouterr().out
    with earth_engine() as server, pytest.raises(SystemExit) as leaving:
        seco_downloader.main([*argv, "--ee_url", server.url])
    assert leaving.value.code == 0
    with pytest.raises(SystemExit) as leaving:
        seco_downloader.main(["--save_path", str(tmp_path / "c"), "--verify"])

    assert leaving.value.code == 0
    assert "3 of 3 places, 0 damaged" in capsys.readouterr().out
    assert PackedStore(tmp_path / "c", ("B4", "B3", "B2")).patch_shape == (3, 12, 12)
    shutil.rmtree(tmp_path / "c")
