"""A collection is read again: what is wrong is found, and what is damaged comes again."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.collect.journal import Journal, Record, read_journals
from datasets.collect.plan import Plan
from datasets.collect.verify import UNWANTED, verify
from datasets.collect.writer import METADATA_NAME, Draft, PlaceWriter, place_hash
from tests.references.fetch_runs import tree
from tests.references.place_files import NEW, OLD, images, scene, stub_plan
from utils.errors import UserError


def plan_of(num_places: int = 3, **changes: Any) -> Plan:
    """Places in a row, in one zone."""
    return stub_plan(num_places, 0, **{"num_dates": 2, "bands": ("B4", "B9")} | changes)


def collect(root: Path, plan: Plan, names: tuple[str, ...] = (NEW, OLD)) -> None:
    """Collect what no journal calls done, at most three places, as a fetch does."""
    writer = PlaceWriter(root, plan.settings, {"collection": "made up"}, (0, 1))
    with Journal(root, plan.hash).opened() as journal:
        writer.clear()
        known = read_journals(root, plan.hash)
        for number in range(min(3, plan.num_places)):
            if number not in known:
                draft = Draft(writer, plan.place(number))
                for index, name in enumerate(names):
                    draft.add(scene(name), images(10 * number + index))
                journal.add(draft.finish())
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


def test_a_whole_collection_is_well_also_with_files_of_macos(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (root, *root.glob("*/"), *root.glob("*/*/")):
        (folder / ".DS_Store").touch()
        (folder / "._B4.tif").touch()
    (root / "__MACOSX").mkdir()

    assert findings(root) == []
    assert capsys.readouterr().out == "3 of 3 places, 0 damaged\n"


def test_missing_places_are_not_well_but_not_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(tmp_path, plan_of(4))
    assert not verify(tmp_path, plan_of(4), 1)
    assert capsys.readouterr().out == (
        "3 of 4 places, 0 damaged: the same command without --verify collects the others\n"
    )


PLACE = "000001"
BAND = f"{PLACE}/{OLD}/B4.tif"
METADATA = f"{PLACE}/{OLD}/{METADATA_NAME}"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        (root / BAND).unlink()
        make(root / BAND)

    return damage


def scene_to_file(root: Path) -> None:
    shutil.rmtree(root / PLACE / OLD)
    (root / PLACE / OLD).touch()


def exchange(root: Path) -> None:
    one, other = root / BAND, root / PLACE / NEW / "B4.tif"
    content = one.read_bytes()
    other.replace(one)
    other.write_bytes(content)


OTHER = "has other files than those that were written"
NO_FILE = rf"lacks {OLD}/B4.tif and has {OLD}/B4.tif/"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in pixels": (lambda root: flip(root / BAND, -9), OTHER),
    "a flipped bit in metadata": (lambda root: flip(root / METADATA, 40), OTHER),
    "a file cut off": (lambda root: os.truncate(root / BAND, 150), OTHER),
    "scenes exchanged": (exchange, OTHER),
    "hostile metadata": (lambda root: (root / METADATA).write_text("[" * 100_000), OTHER),
    "an empty file": (lambda root: os.truncate(root / BAND, 0), OTHER),
    "a lost file": (lambda root: (root / BAND).unlink(), f"lacks {OLD}/B4.tif"),
    "a lost scene": (lambda root: shutil.rmtree(root / PLACE / OLD), f"lacks {OLD}/B4.tif"),
    "a lost place": (lambda root: shutil.rmtree(root / PLACE), f"lacks {OLD}/B4.tif"),
    "one file more": (
        lambda root: (root / PLACE / OLD / "B3\x1b.tif").touch(),
        r"has .*B3\\x1b.tif', which was not written",
    ),
    "one scene more": (lambda root: (root / PLACE / "holiday").mkdir(), "has holiday/"),
    "a file for a scene": (
        scene_to_file,
        f"lacks {OLD}/B4.tif and has {OLD}, which",
    ),
    "a pipe for a file": (replaced(os.mkfifo), NO_FILE),
    "a device for a file": (replaced(lambda path: path.symlink_to("/dev/zero")), NO_FILE),
    "a folder for a file": (replaced(Path.mkdir), NO_FILE),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.difference("collect-verify")
def test_damage_is_found_and_collected_again(
    whole: Path, root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = DAMAGE[name]
    damage(root)

    found = findings(root)

    assert len(found) == 1
    assert re.match(f"000001 .*{expected}", found[0])
    assert found[0].isprintable()
    assert "3 of 3 places, 1 damaged: the same command" in capsys.readouterr().out
    assert sorted(read_journals(root, plan_of().hash)) == [0, 2]
    collect(root, plan_of())
    assert tree(root) == tree(whole)
    assert findings(root) == []


def test_folders_that_no_journal_knows_are_named_and_stay(
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


def test_a_position_or_acquisition_that_is_there_twice_is_named_but_not_damage(
    tmp_path: Path,
) -> None:
    plan = plan_of(left=(300_000, 300_120, 300_000))
    collect(tmp_path, plan, (OLD, OLD.replace("T56HLH", "T56HLJ")))

    twice = f"has 2 scenes of 20200101T101010{UNWANTED}"
    same = f"000002 is at the position of 000000{UNWANTED}"
    expected = [f"00000{number} {twice}" for number in range(3)]
    assert findings(tmp_path, plan) == [*expected, same]
    assert len(read_journals(tmp_path, plan.hash)) == 3


def test_records_that_no_run_writes_are_forgotten(root: Path) -> None:
    shutil.rmtree(root / PLACE)
    with Journal(root, plan_of().hash).opened() as journal:
        journal.add(Record(1, "done", sha256=place_hash({})))
        journal.add(Record(10**9, "done"))

    assert findings(root) == [
        "000001 has 0 scenes instead of 2",
        "1000000000 is in a journal, but not in the plan",
    ]
    assert sorted(read_journals(root, plan_of().hash)) == [0, 2]


def test_a_file_that_cannot_be_read_does_not_make_its_place_forgotten(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(116, "Stale file handle")

    before = (root / "journal.jsonl").read_bytes()
    with monkeypatch.context() as stale:
        stale.setattr("datasets.collect.verify.read_file", fail)
        with pytest.raises(UserError, match=r"cannot read .*tif \(Stale file handle\)"):
            verify(root, plan_of(), 2)
    assert (root / "journal.jsonl").read_bytes() == before


def test_uint16_and_jpeg_are_verified_too(tmp_path: Path) -> None:
    for name, plan in (("u", plan_of(dtype="uint16")), ("j", plan_of(compress="jpeg"))):
        collect(tmp_path / name, plan)
        assert findings(tmp_path / name, plan) == []
