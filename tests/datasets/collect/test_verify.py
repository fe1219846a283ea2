"""A collection is read again: whatever is wrong is found, and what is damaged comes again."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from datasets.collect.journal import Journal, Record, read_journals
from datasets.collect.plan import Plan
from datasets.collect.sampling import Places
from datasets.collect.settings import Settings
from datasets.collect.verify import UNWANTED, verify
from datasets.collect.writer import METADATA_NAME, PlaceWriter, place_hash
from tests.references.fetch_runs import tree
from tests.references.place_files import NEW, OLD, images, scene
from utils.errors import UserError

SETTINGS = Settings(
    num_locations=3, num_dates=2, patch_px=12, bands=("B4", "B9"), reference_date="2021-01-01"
)


def plan_of(left: tuple[int, ...] = (300_000, 300_120, 300_240), **changes: Any) -> Plan:
    """Places in a row, in one zone."""
    zeros = np.zeros(len(left), np.int32)
    where = np.array(left, np.int32)
    places = Places(
        zeros.astype(float), zeros.astype(float), zeros + 32631, where, zeros + 60_000, zeros
    )
    return Plan(replace(SETTINGS, **changes), places, "")


def collect(root: Path, plan: Plan, seeds: tuple[int, ...] = (0, 10, 20)) -> None:
    """Collect what no journal calls done, as a fetch does."""
    writer = PlaceWriter(root, plan.settings, {"collection": "made up"}, (0, 1))
    with Journal(root, plan.hash).opened() as journal:
        writer.clear()
        known = read_journals(root, plan.hash)
        for number, seed in enumerate(seeds):
            if number in known:
                continue
            draft = writer.draft(plan.place(number))
            draft.add(scene(NEW), images(seed))
            draft.add(scene(OLD), images(seed + 1))
            journal.add(draft.finish())
            journal.flush()
        writer.clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of 3 places x 2 scenes x 2 bands. Read only."""
    root = tmp_path_factory.mktemp("verify") / "whole"
    collect(root, plan_of())
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "c"))


def findings(root: Path, plan: Plan | None = None) -> list[str]:
    """Verify, and return what is found as place and words."""
    is_well = verify(root, plan or plan_of(), num_workers=2)
    report = json.loads((root / "verify.json").read_text())
    found = [f"{one['place']} {one['what']}" for one in report["findings"]]
    assert is_well == (not found and report["places_done"] >= report["places_wanted"])
    return found


def rewrite(path: Path, image: Any, *, epsg: int = 32631, left: int = 300_120) -> None:
    """Replace a band of 10 m of place 1."""
    transform = from_origin(left, 60_000, 10, 10)
    crs = CRS.from_epsg(epsg)
    layers = image if image.ndim == 3 else image[None]
    shape = dict(zip(("count", "height", "width"), layers.shape, strict=True))
    with rasterio.open(
        path, "w", driver="GTiff", dtype=image.dtype, crs=crs, transform=transform, **shape
    ) as file:
        file.write(layers)


def flip(path: Path, place: int = -9) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_whole_collection_is_well(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert findings(root) == []
    assert capsys.readouterr().out == "3 of 3 places, 0 damaged\n"


def test_files_of_macos_are_not_damage(root: Path) -> None:
    for folder in (root, *root.glob("*/"), *root.glob("*/*/")):
        (folder / ".DS_Store").touch()
        (folder / "._B4.tif").touch()
    (root / "__MACOSX").mkdir()
    assert findings(root) == []


def test_missing_places_are_not_well_but_not_damaged(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of((300_000, 300_120, 300_240, 300_360), num_locations=4)
    collect(root / "more", plan)
    assert not verify(root / "more", plan, 1)
    assert capsys.readouterr().out == "3 of 4 places, 0 damaged\n"


def folder_to_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def file_to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def file_to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def file_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def exchange(one: Path, other: Path) -> None:
    content = one.read_bytes()
    other.replace(one)
    other.write_bytes(content)


PIXELS = np.full((12, 12), 7, np.uint8)
BAND = f"000001/{OLD}/B4.tif"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in pixels": (lambda root: flip(root / BAND), rf"{OLD}/B4\.tif "),
    "a flipped bit in metadata": (
        lambda root: flip(root / "000001" / OLD / METADATA_NAME, 40),
        rf"(a|{OLD}/)",
    ),
    "metadata of another scene": (
        lambda root: shutil.copy(
            root / "000001" / NEW / METADATA_NAME, root / "000001" / OLD / METADATA_NAME
        ),
        rf"{OLD}/metadata.json is of another scene",
    ),
    "hostile metadata": (
        lambda root: (root / "000001" / OLD / METADATA_NAME).write_text("[" * 100_000),
        rf"{OLD}/metadata.json cannot be read",
    ),
    "a file cut off": (lambda root: os.truncate(root / BAND, 150), rf"{OLD}/B4\.tif "),
    "an empty file": (lambda root: os.truncate(root / BAND, 0), "B4.tif cannot be read"),
    "a picture of another kind": (
        lambda root: (root / BAND).write_bytes(b"\x89PNG\r\n\x1a\n\x1b[31m"),
        "B4.tif cannot be read",
    ),
    "a missing file": (lambda root: (root / BAND).unlink(), f"{OLD}: lacks B4.tif"),
    "a missing scene": (lambda root: shutil.rmtree(root / "000001" / OLD), f"lacks {OLD}"),
    "a missing place": (lambda root: shutil.rmtree(root / "000001"), f"lacks {OLD}"),
    "an additional file": (
        lambda root: (root / "000001" / OLD / "B3.tif").write_text(""),
        f"{OLD}: has B3.tif, which was not written",
    ),
    "an additional scene": (
        lambda root: (root / "000001" / "x").mkdir(),
        "has x, which was not written",
    ),
    "a file for a scene": (
        lambda root: folder_to_file(root / "000001" / OLD),
        f"lacks {OLD} and has {OLD}/",
    ),
    "a pipe for a file": (
        lambda root: file_to_pipe(root / BAND),
        "lacks B4.tif and has B4.tif/",
    ),
    "a device for a file": (
        lambda root: file_to_device(root / BAND),
        "lacks B4.tif and has B4.tif/",
    ),
    "a folder for a file": (
        lambda root: file_to_folder(root / BAND),
        "lacks B4.tif and has B4.tif/",
    ),
    "another shape": (
        lambda root: rewrite(root / BAND, PIXELS[:6]),
        r"B4.tif is \(1, 6, 12\) uint8 instead of \(1, 12, 12\) uint8",
    ),
    "two layers": (
        lambda root: rewrite(root / BAND, np.stack([PIXELS, PIXELS])),
        r"B4.tif is \(2, 12, 12\) uint8",
    ),
    "another type": (
        lambda root: rewrite(root / BAND, PIXELS.astype(np.uint16)),
        r"B4.tif is \(1, 12, 12\) uint16 instead of",
    ),
    "another zone": (
        lambda root: rewrite(root / BAND, PIXELS, epsg=32632),
        "B4.tif is not at its place",
    ),
    "another corner": (
        lambda root: rewrite(root / BAND, PIXELS, left=300_180),
        "B4.tif is not at its place",
    ),
    "other pixels": (lambda root: rewrite(root / BAND, PIXELS), "B4.tif is not what was written"),
    "a band of zeros": (lambda root: rewrite(root / BAND, 0 * PIXELS), "B4.tif holds only zeros"),
    "scenes exchanged": (
        lambda root: exchange(root / BAND, root / "000001" / NEW / "B4.tif"),
        "B4.tif is not what was written",
    ),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.difference("collect-verify")
def test_damage_is_found_and_collected_again(whole: Path, root: Path, name: str) -> None:
    damage, expected = DAMAGE[name]
    damage(root)

    found = findings(root)

    assert found
    assert {one[:7] for one in found} == {"000001 "}
    assert re.match(f"000001 ({expected}|.*{expected})", found[0])
    assert all(one.isprintable() for one in found)
    assert sorted(read_journals(root, plan_of().hash)) == [0, 2]
    collect(root, plan_of())
    assert tree(root) == tree(whole)
    assert findings(root) == []


def test_dark_water_is_told_but_not_collected_for_ever(tmp_path: Path) -> None:
    plan = plan_of((300_000,), num_locations=1, num_dates=1)
    dark = images()
    dark["B4"][:] = 39  # the largest digital number that becomes 0
    dark["B9"][:] = 39  # nothing to see at 60 m is common
    writer = PlaceWriter(tmp_path, plan.settings, {}, (0, 1))
    with Journal(tmp_path, plan.hash).opened() as journal:
        draft = writer.draft(plan.place(0))
        draft.add(scene(), dark)
        journal.add(draft.finish())

    assert findings(tmp_path, plan) == [
        f"000000 {OLD}/B4.tif holds only zeros, as clear water may{UNWANTED}"
    ]
    assert sorted(read_journals(tmp_path, plan.hash)) == [0]


def test_folders_that_no_journal_knows_are_told_and_stay(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "000009").mkdir()
    (root / "holi\x1bday").mkdir()
    (root / ".hidden").mkdir()
    (root / "plan.png").touch()

    assert findings(root) == [
        "000009 is not in any journal: move it out of the collection",
        r"'holi\x1bday' is not in any journal: move it out of the collection",
    ]
    assert "\x1b" not in capsys.readouterr().out
    assert (root / "000009").is_dir()


def test_two_places_at_the_same_spot_are_told(tmp_path: Path) -> None:
    plan = plan_of((300_000, 300_120, 300_000))
    collect(tmp_path, plan)
    assert findings(tmp_path, plan) == [f"000002 is at the position of 000000{UNWANTED}"]


def test_the_same_pixels_at_two_places_are_told(tmp_path: Path) -> None:
    collect(tmp_path, plan_of(), seeds=(0, 10, 0))
    assert findings(tmp_path) == [f"000000 has the same pixels as 000002{UNWANTED}"]


def test_an_acquisition_that_is_twice_at_a_place_is_told(tmp_path: Path) -> None:
    plan = plan_of((300_000,), num_locations=1)
    writer = PlaceWriter(tmp_path, plan.settings, {}, (0, 1))
    with Journal(tmp_path, plan.hash).opened() as journal:
        draft = writer.draft(plan.place(0))
        for seed, name in enumerate((OLD, OLD.replace("T56HLH", "T56HLJ"))):
            draft.add(scene(name), images(seed))
        journal.add(draft.finish())

    assert findings(tmp_path, plan) == [f"000000 has 2 scenes of 20200101T101010{UNWANTED}"]


def test_a_place_beyond_the_plan_is_told_and_forgotten(root: Path) -> None:
    with Journal(root, plan_of().hash).opened() as journal:
        journal.add(Record(10**9, "done"))

    assert findings(root) == ["1000000000 is in a journal, but not in the plan"]
    assert sorted(read_journals(root, plan_of().hash)) == [0, 1, 2]


def test_a_file_that_cannot_be_read_is_no_reason_to_forget_its_place(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(116, "Stale file handle")

    before = (root / "journal.jsonl").read_bytes()
    with monkeypatch.context() as stale:
        stale.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match=r"cannot read .*tif \(Stale file handle\)"):
            verify(root, plan_of(), 2)
    assert (root / "journal.jsonl").read_bytes() == before


def test_a_forged_record_without_scenes_is_damage(root: Path) -> None:
    shutil.rmtree(root / "000001")
    lines = (root / "journal.jsonl").read_text().splitlines(keepends=True)
    lines[2] = json.dumps({"place": 1, "outcome": "done", "sha256": place_hash({})}) + "\n"
    (root / "journal.jsonl").write_text("".join(lines))

    assert findings(root) == ["000001 has 0 scenes instead of 2"]


def test_uint16_and_jpeg_are_verified_too(tmp_path: Path) -> None:
    for name, plan in (("u", plan_of(dtype="uint16")), ("j", plan_of(compress="jpeg"))):
        collect(tmp_path / name, plan)
        assert findings(tmp_path / name, plan) == []
