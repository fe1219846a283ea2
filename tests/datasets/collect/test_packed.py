"""A collection straight into a packed store: the pixels of the folder, after any interruption."""

import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest

from datasets.collect.journal import Record, read_journals
from datasets.collect.packed import PackedCollection
from datasets.collect.plan import Plan
from datasets.collect.report import Ending
from datasets.collect.scenes import ComeBack, Place, Scene
from datasets.collect.settings import Settings
from datasets.miniature.services.catalogue import Catalogue
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


class Barren(FakeSource):
    """Has no scenes of some places."""

    def __init__(self, settings: Settings, places: Collection[int]) -> None:
        super().__init__(settings, Catalogue(cloudiness=0.0))
        self._barren = places

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        found = zip(places, super().search(places), strict=True)
        return [[] if place.number in self._barren else scenes for place, scenes in found]


def collect(
    save_path: Path,
    plan: Plan,
    source: FakeSource,
    shard: tuple[int, int] = (0, 1),
    retry: str | None = None,
) -> tuple[Ending, int]:
    """Fetch a shard; return how it ended, and the number of places in the store."""
    store = PackedCollection(save_path, plan)
    store.open(read_journals(save_path, plan.hash), shard)
    ending = fetch(save_path, plan, source, shard, store=store, retry=retry)
    return ending, store.finish()


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

    assert collect(tmp_path, plan, last) == (COMPLETE, 30)
    assert not known & set(last.searched)
    assert_same(tmp_path, packed_folder)


def collect_until_killed(save_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collect, but stop between the rows of places and the removal of their files."""
    with monkeypatch.context() as killed:
        killed.setattr("datasets.collect.packed.sync_files", lambda *_: [].pop())
        with pytest.raises(IndexError):
            collect(save_path, plan, FakeSource(plan.settings))


def test_rows_are_written_again_if_their_files_are_still_there(
    packed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path, PACKED)
    collect_until_killed(tmp_path, plan, monkeypatch)
    assert len(list((tmp_path / ".places").iterdir())) >= 5

    assert collect(tmp_path, plan, FakeSource(plan.settings)) == (COMPLETE, 30)
    assert_same(tmp_path, packed_folder)


def test_a_waiting_place_that_was_damaged_is_not_packed_but_collected_again(
    packed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path, PACKED)
    collect_until_killed(tmp_path, plan, monkeypatch)
    path = next((tmp_path / ".places").rglob("B2.tif"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"was damaged after it was collected: run the same"):
        collect(tmp_path, plan, FakeSource(plan.settings))
    assert not (tmp_path / MANIFEST_NAME).exists()
    place = int(path.relative_to(tmp_path / ".places").parts[0])
    assert PackedCollection(tmp_path, plan).forget_damaged((0, 1)) == [place]
    source = FakeSource(plan.settings)
    assert collect(tmp_path, plan, source) == (COMPLETE, 30)
    assert set(source.searched) == {place}
    assert_same(tmp_path, packed_folder)


def test_the_last_shard_makes_the_store_whole(packed_folder: Path, tmp_path: Path) -> None:
    plan = plan_in(tmp_path, PACKED)

    assert collect(tmp_path, plan, FakeSource(plan.settings), (0, 2)) == (COMPLETE, 0)
    assert collect(tmp_path, plan, FakeSource(plan.settings), (1, 2)) == (COMPLETE, 30)
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

    assert collect(tmp_path, plan, FakeSource(plan.settings)) == (COMPLETE, 2)
    zeros = tuple(Flaw(patch, "B8A", "holds only zeros") for patch in range(4))
    assert read_manifest(tmp_path).flaws == zeros


BARREN = {3, 7}  # of the first block of 25; the second one has 5 places


def short_plan(save_path: Path, settings: Settings = PACKED) -> Plan:
    return plan_in(save_path, replace(settings, spares=0.0))


def store_files(save_path: Path) -> dict[str, bytes]:
    """Return what a reader of the store sees, and hidden files."""
    paths = [*save_path.glob("*.u8"), save_path / MANIFEST_NAME, *save_path.glob(".*/**/*.*")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def short_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 28 of 30 places. Read only."""
    save_path = tmp_path_factory.mktemp("short")
    plan = short_plan(save_path)
    ending, stored = collect(save_path, plan, Barren(plan.settings, BARREN))
    assert (ending.kind, stored) == ("incomplete", 28)
    return save_path


def test_a_collection_that_lacks_places_is_a_store_of_the_others(
    short_store: Path, tmp_path: Path
) -> None:
    plan = short_plan(tmp_path / "folder", FOLDER)
    assert fetch(tmp_path / "folder", plan, Barren(plan.settings, BARREN)).kind == "incomplete"
    pack(SecoPatches(tmp_path / "folder", BANDS), tmp_path / "store", 0)
    shutil.copytree(short_store, tmp_path / "c")

    (tmp_path / "c" / ".places").rmdir()  # which a retry would use
    assert_same(tmp_path / "c", tmp_path / "store")


@pytest.mark.parametrize("shards", [[(1, 2), (0, 2)], [(0, 2), (1, 2)]])
def test_the_order_of_shards_does_not_change_a_short_store(
    short_store: Path, tmp_path: Path, shards: list[tuple[int, int]]
) -> None:
    plan = short_plan(tmp_path)
    source = Barren(plan.settings, BARREN)
    assert [collect(tmp_path, plan, source, shard)[1] for shard in shards] == [0, 28]
    assert store_files(tmp_path) == store_files(short_store)


class Killed(BaseException):
    """Stands for a process that ends here."""


def test_wherever_a_short_store_is_interrupted_it_ends_with_the_same_files(
    short_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, save_path = tmp_path / "begun", tmp_path / "again"
    plan = short_plan(begun)
    store = PackedCollection(begun, plan)
    store.open({}, (0, 1))
    fetch(begun, plan, Barren(plan.settings, BARREN), store=store)
    left = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            return step(*args, **options)

        return run

    # Rows of the 2 places that move, of 23 that wait, the manifest, two files cut, 23 folders.
    steps = {"write_rows": 25, "sync_files": 1, "finish_store": 1, "os.truncate": 2}
    steps["shutil.rmtree"] = 2 * 23
    total = sum(steps.values())
    for instant in [1, 2, 3, 4, *range(24, 34), total]:
        shutil.copytree(begun, save_path)
        store = PackedCollection(save_path, plan)
        with monkeypatch.context() as patches:
            for step in steps:
                name = f"datasets.collect.packed.{step}"
                patches.setattr(name, counted(resolve_name(name)))
            left = instant
            with pytest.raises(Killed):
                store.finish()
        assert store.finish() == 28
        assert store_files(save_path) == store_files(short_store)
        shutil.rmtree(save_path)


@pytest.mark.parametrize("shard", [(0, 1), (0, 2)])
def test_a_retry_adds_to_a_store_what_it_collects(tmp_path: Path, shard: tuple[int, int]) -> None:
    """Also if the other shard has not been collected, so that there is no store yet."""
    plans = [short_plan(tmp_path / name, s) for name, s in (("c", PACKED), ("folder", FOLDER))]
    sources = [Barren(plan.settings, ()) for plan in plans]
    assert fetch(tmp_path / "folder", plans[1], sources[1]) == COMPLETE
    pack(SecoPatches(tmp_path / "folder", BANDS), tmp_path / "store", 0)
    collect(tmp_path / "c", plans[0], Barren(plans[0].settings, BARREN), shard)

    ending, stored = collect(tmp_path / "c", plans[0], sources[0], shard, retry="all")

    assert (ending, set(sources[0].searched)) == (COMPLETE, BARREN)
    if shard[1] == 2:
        assert stored == 0
        stored = collect(tmp_path / "c", plans[0], sources[0], (1, 2))[1]
    assert stored == 30
    assert_same(tmp_path / "c", tmp_path / "store")


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_file_that_was_lost_or_cut_is_named_and_not_replaced_by_zeros(
    tmp_path: Path, is_lost: bool
) -> None:
    """As is one of 4 GB, into which earlier versions cut a group of bands."""
    store = PackedCollection(tmp_path, plan_in(tmp_path, PACKED))
    records = {3: Record(3, "done")}
    store.open({}, (0, 1))
    rows = next(tmp_path.glob("*.u8"))
    store.open(records, (0, 1))
    os.truncate(rows, 5)
    if is_lost:
        rows.unlink()

    with pytest.raises(UserError, match=f"{rows.name} is missing, cut off .*--match_file"):
        store.open(records, (0, 1))


def test_the_command_makes_and_verifies_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        *("--save_path", str(tmp_path / "c"), "--num_locations", "3", "--patch_px", "12"),
        *("--no_land_mask", "--format", "packed", "--num_dates", "2", "--min_free_gb", "0"),
    ]

    assert downloader_runs.collect([*argv, "--plan"]) == 0
    assert downloader_runs.collect([*argv[:2], "--verify"]) == 1
    assert "not yet a store: the same command without --verify" in capsys.readouterr().out
    with earth_engine() as server:
        assert downloader_runs.collect([*argv, "--ee_url", server.url]) == 0
    assert downloader_runs.collect([*argv[:2], "--verify"]) == 0
    assert capsys.readouterr().out.endswith("3 of 3 places, 0 damaged\n")
    assert PackedStore(tmp_path / "c", ("B4", "B3", "B2")).patch_shape == (3, 12, 12)
    rows = min((tmp_path / "c").glob("*.u8"))
    content = rows.read_bytes()
    rows.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with earth_engine() as server:
        assert downloader_runs.collect([*argv, "--ee_url", server.url]) == 2
    assert "differs from the hash" in capsys.readouterr().err
