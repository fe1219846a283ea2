"""A collection straight into a packed store: the pixels of the folder, after any interruption."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.collect.journal import read_journals
from datasets.collect.packed import PackedCollection
from datasets.collect.plan import Plan
from datasets.collect.report import Ending
from datasets.collect.scenes import ComeBack
from datasets.miniature.services.earth_engine import earth_engine
from datasets.seco.patches import SecoPatches
from datasets.store.manifest import MANIFEST_NAME, Flaw, read_manifest
from datasets.store.reader import PackedStore
from datasets.store.rows import verify_store
from datasets.store.writer import pack
from tests.references import downloader_runs
from tests.references.fetch_runs import SETTINGS, fetch, plan_in
from tests.servers.fake_source import FakeSource
from utils.errors import UserError

BANDS = ("B2", "B3", "B4", "B8A", "B9")  # of all resolutions, and both groups of a store
FOLDER = replace(SETTINGS, bands=BANDS)
PACKED = replace(FOLDER, format="packed")
COMPLETE = Ending("complete")


def collect(
    save_path: Path, plan: Plan, source: FakeSource, shard: tuple[int, int] = (0, 1)
) -> tuple[Ending, bool]:
    """Fetch a shard; return how it ended, and whether the store is whole."""
    store = PackedCollection(save_path, plan)
    store.open()
    ending = fetch(save_path, plan, source, shard, store=store)
    return ending, store.finish(read_journals(save_path, plan.hash))


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same plan as a folder that is packed afterwards. Read only."""
    root = tmp_path_factory.mktemp("packed")
    plan = plan_in(root / "folder", FOLDER)
    assert fetch(root / "folder", plan, FakeSource(plan.settings)) == COMPLETE
    pack(SecoPatches(root / "folder", BANDS), root / "store", 0)
    return root / "store"


def assert_same(save_path: Path, packed_folder: Path) -> None:
    stores = [PackedStore(path, BANDS) for path in (save_path, packed_folder)]
    found, wanted = (
        {store.name(patch): store.read(patch) for patch in range(int(store.starts[-1]))}
        for store in stores
    )
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    verify_store(save_path, 1)
    assert not list(save_path.glob(".*"))


def test_an_interrupted_store_ends_as_packing_the_folder_does(
    packed_folder: Path, tmp_path: Path
) -> None:
    plan = plan_in(tmp_path, PACKED)
    for _ in range(3):
        left = iter(range(20))

        def fault(kind: str, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise ComeBack("enough")

        collect(tmp_path, plan, FakeSource(plan.settings, fault=fault))
        assert not (tmp_path / MANIFEST_NAME).exists()
        known = set(read_journals(tmp_path, plan.hash))
    last = FakeSource(plan.settings)

    assert collect(tmp_path, plan, last) == (COMPLETE, True)
    assert not known & set(last.searched)
    assert_same(tmp_path, packed_folder)


def test_rows_are_written_again_if_their_files_are_still_there(
    packed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the rows and the removal of the files."""
    plan = plan_in(tmp_path, PACKED)
    with monkeypatch.context() as killed:
        killed.setattr("datasets.collect.packed.sync_files", lambda *_: [].pop())
        with pytest.raises(IndexError):
            collect(tmp_path, plan, FakeSource(plan.settings))
    assert len(list((tmp_path / ".places").iterdir())) >= 5

    assert collect(tmp_path, plan, FakeSource(plan.settings)) == (COMPLETE, True)
    assert_same(tmp_path, packed_folder)


def test_the_last_shard_makes_the_store_whole(packed_folder: Path, tmp_path: Path) -> None:
    plan = plan_in(tmp_path, PACKED)

    assert collect(tmp_path, plan, FakeSource(plan.settings), (0, 2)) == (COMPLETE, False)
    assert collect(tmp_path, plan, FakeSource(plan.settings), (1, 2)) == (COMPLETE, True)
    assert_same(tmp_path, packed_folder)


def test_bands_of_zeros_are_flaws_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path, replace(PACKED, num_locations=2, spares=4.0))
    read = FakeSource.read

    def dark(source: FakeSource, *request: object) -> dict[str, np.ndarray]:
        images = read(source, *request)  # type: ignore[arg-type]
        images["B8A"][:] = 39  # the largest digital number that becomes 0
        return images

    monkeypatch.setattr(FakeSource, "read", dark)

    assert collect(tmp_path, plan, FakeSource(plan.settings)) == (COMPLETE, True)
    zeros = tuple(Flaw(patch, "B8A", "holds only zeros") for patch in range(4))
    assert read_manifest(tmp_path).flaws == zeros


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_file_that_was_lost_or_cut_is_named_and_not_replaced_by_zeros(
    tmp_path: Path, is_lost: bool
) -> None:
    """As is one of 4 GB, into which earlier versions cut a group of bands."""
    store = PackedCollection(tmp_path, plan_in(tmp_path, PACKED))
    store.open()
    rows = next(tmp_path.glob("*.u8"))
    store.open(has_begun=True)
    os.truncate(rows, 5)
    if is_lost:
        rows.unlink()

    with pytest.raises(UserError, match=f"{rows.name} is missing, cut off .*--match_file"):
        store.open(has_begun=True)


def test_the_command_makes_and_verifies_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        *("--save_path", str(tmp_path / "c"), "--num_locations", "3", "--patch_px", "12"),
        *("--no_land_mask", "--format", "packed", "--num_dates", "2", "--min_free_gb", "0"),
    ]

    assert downloader_runs.collect([*argv, "--plan"]) == 0
    assert downloader_runs.collect([*argv[:2], "--verify"]) == 1
    assert "not yet a store, which needs all of them: --status" in capsys.readouterr().out
    with earth_engine() as server:
        assert downloader_runs.collect([*argv, "--ee_url", server.url]) == 0
    assert downloader_runs.collect([*argv[:2], "--verify"]) == 0
    assert capsys.readouterr().out.endswith("3 of 3 places, 0 damaged\n")
    assert PackedStore(tmp_path / "c", ("B4", "B3", "B2")).patch_shape == (3, 12, 12)
