"""The plan of a collection: made once, read again, refused where it is not the same."""

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.collect.blocks import BLOCK, blocks_of, read_indices
from datasets.collect.estimate import estimate, estimate_text, plot_places
from datasets.collect.journal import Journal, Record, read_journals
from datasets.collect.places import overlapping, places_from_csv, places_to_csv
from datasets.collect.plan import Plan, make_plan, open_plan, read_plan, write_plan
from datasets.collect.report import summarise
from datasets.collect.sampling import Places
from datasets.collect.settings import Settings, check_settings
from utils.errors import UserError

SMALL = Settings(
    num_locations=60,
    sampler="uniform",
    land_mask=False,
    patch_px=12,
    spares=0.5,
    reference_date="2021-06-30",
)


def some_places(count: int) -> Places:
    """Places side by side, of 12 pixels."""
    left = 60 * np.arange(count, dtype=np.int32) * 2
    zeros = np.zeros(count, np.int32)
    return Places(np.zeros(count), np.zeros(count), zeros + 32631, left, zeros, zeros)


def stub_plan(num_places: int, num_spares: int) -> Plan:
    return Plan(replace(SMALL, num_locations=num_places), some_places(num_places + num_spares), "")


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def matched(folder: Path, text: str, **changes: Any) -> Plan:
    path = str(write(folder, text))
    return make_plan(replace(SMALL, match_file=path, **changes))


def test_a_plan_is_read_as_it_was_made(tmp_path: Path) -> None:
    chosen = replace(
        SMALL, sampler="bounded", bounds=(5, 45.5, 6, 46), bands=("B4", "B3", "B2"), std_km=7
    )
    made = open_plan(tmp_path, chosen, set())
    again = read_plan(tmp_path)
    assert again.settings == made.settings == chosen
    assert again.hash == made.hash
    assert [again.place(n) for n in range(90)] == [made.place(n) for n in range(90)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["places.csv", "plan.json"]


def test_places_have_their_windows_and_grids() -> None:
    plan = make_plan(SMALL)
    place = plan.place(77)
    assert (place.number, place.name) == (77, "000077")
    assert (place.grid.epsg, place.grid.left) == (plan.places.epsg[77], plan.places.left[77])
    assert place.grid.size_px == 12
    shift = int(plan.places.shift_days[77])
    middle = date(2021, 6, 30).toordinal() - 28 - shift
    assert [w.start.toordinal() + 7 for w in place.windows] == [middle - 84 * n for n in range(5)]
    with pytest.raises(IndexError):
        plan.place(90)


def test_the_reference_is_today_and_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = datetime.now(UTC).date().isoformat()
    unset = replace(SMALL, reference_date="")
    first = open_plan(tmp_path, unset, set()).settings.reference_date
    assert before <= first <= datetime.now(UTC).date().isoformat()
    monkeypatch.setattr("datasets.collect.plan.datetime", None)  # is not asked again
    assert open_plan(tmp_path, unset, set()).settings.reference_date == first


def test_a_flag_that_differs_from_the_plan_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, SMALL, set())
    with Journal(tmp_path, plan.hash).opened() as journal:
        journal.add(Record(3, "done"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = replace(SMALL, std_km=20.0, seed=7)
    with pytest.raises(UserError, match=r"^--std_km is 50 in the plan of .*, not 20: leave it out"):
        open_plan(tmp_path, other, {"std_km"})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert open_plan(tmp_path, other, set()).settings == SMALL
    assert open_plan(tmp_path, SMALL, {"std_km", "bands", "seed"}).settings == SMALL


@pytest.mark.parametrize("name", sorted(asdict(Settings())))
def test_every_setting_is_compared_and_decides_the_hash(tmp_path: Path, name: str) -> None:
    plan = stub_plan(2, 1)
    value = getattr(plan.settings, name)
    changed: Any = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value + 1,
        str: lambda: value + "x",
        tuple: lambda: value[1:],
        type(None): lambda: (1.0, 2.0, 3.0, 4.0),
    }[type(value)]()
    other = replace(plan.settings, **{name: changed})
    assert Plan(replace(plan.settings), plan.places, "").hash == plan.hash
    if name != "reference_date":
        assert Plan(other, plan.places, "").hash != plan.hash
    write_plan(tmp_path, Plan(plan.settings, plan.places, make_sha(plan.places)))
    (tmp_path / "000000").mkdir()
    with pytest.raises(UserError, match=f"^--{name} is "):
        open_plan(tmp_path, other, {name})


@pytest.mark.parametrize("kept", ["000017", "manifest.json"])
def test_a_plan_beside_data_is_never_replaced(tmp_path: Path, kept: str) -> None:
    open_plan(tmp_path, SMALL, set())
    (tmp_path / kept).mkdir()
    with pytest.raises(UserError, match=r"--seed is 42 in the plan of .*, not 7: leave it out"):
        open_plan(tmp_path, replace(SMALL, seed=7), {"seed"})
    assert read_plan(tmp_path).settings == SMALL


def test_a_plan_by_which_nothing_was_collected_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a mistyped --collection; what is not given stays as it was planned."""
    plan = open_plan(tmp_path, replace(SMALL, collection="COPERNICUS/S2_SRR", seed=3), set())
    with Journal(tmp_path, plan.hash, (1, 2)).opened() as journal:
        journal.add(Record(3, "refused", "HTTP 404"))

    again = open_plan(tmp_path, Settings(), {"collection"})

    assert again.settings == replace(SMALL, seed=3)
    assert read_plan(tmp_path).hash == again.hash
    assert read_journals(tmp_path, again.hash) == {}
    error = capsys.readouterr().err
    assert error.startswith(
        "--collection is now COPERNICUS/S2_SR_HARMONIZED, not COPERNICUS/S2_SRR"
    )
    assert "is replaced, since nothing was collected by it" in error


def test_settings_that_follow_from_a_corrected_one_are_corrected_too(tmp_path: Path) -> None:
    """Without --source stac the first command finds no credentials of Earth Engine."""
    open_plan(tmp_path, SMALL, set())
    given = replace(SMALL, source="stac", collection="sentinel-2-l2a", stac_url="https://a.org")
    assert open_plan(tmp_path, given, {"source"}).settings == given

    path = str(write(tmp_path, "lat,lng\n0.5,0.5\n"))
    matched = open_plan(tmp_path, replace(given, match_file=path), {"match_file"})
    assert matched.num_places == 1
    assert open_plan(tmp_path, given, {"match_file"}).num_places == 60


def test_a_plan_that_cannot_be_made_does_not_replace_another(tmp_path: Path) -> None:
    open_plan(tmp_path, SMALL, set())
    with pytest.raises(UserError, match="--num_dates"):
        open_plan(tmp_path, replace(SMALL, num_dates=0), {"num_dates"})
    assert read_plan(tmp_path).settings == SMALL


def test_a_plan_that_another_process_collects_is_not_replaced(tmp_path: Path) -> None:
    plan = open_plan(tmp_path, SMALL, set())
    script = (
        "import sys; from pathlib import Path; from datasets.collect.journal import Journal\n"
        "with Journal(Path(sys.argv[1]), sys.argv[2]).opened(): print('held', flush=True); input()"
    )
    argv = [sys.executable, "-c", script, str(tmp_path), plan.hash]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process collects into"):
            open_plan(tmp_path, replace(SMALL, seed=7), {"seed"})
        process.communicate("\n")
    assert open_plan(tmp_path, replace(SMALL, seed=7), {"seed"}).settings.seed == 7


def make_sha(places: Places) -> str:
    return hashlib.sha256(places_to_csv(places)).hexdigest()


def test_other_places_have_another_hash() -> None:
    assert make_plan(SMALL).hash != make_plan(replace(SMALL, seed=1)).hash
    plan = stub_plan(2, 1)
    assert Plan(plan.settings, plan.places, "a").hash != Plan(plan.settings, plan.places, "b").hash


def test_a_folder_with_places_of_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "000017").mkdir()
    with pytest.raises(UserError, match=r"has no plan.json, but already 000017: choose another"):
        open_plan(tmp_path, SMALL, set())
    assert [path.name for path in tmp_path.iterdir()] == ["000017"]


def test_a_plan_that_was_cut_off_before_its_end_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_text("number,la")
    assert open_plan(tmp_path, SMALL, set()).hash == make_plan(SMALL).hash


def test_shards_that_start_together_have_one_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The places of each seed differ: the first to come decides. The lock is of a descriptor."""

    def slowly(settings: Settings) -> Plan:
        time.sleep(0.05)
        return make_plan(settings)

    monkeypatch.setattr("datasets.collect.plan.make_plan", slowly)

    def start(seed: int) -> str:
        return open_plan(tmp_path / "new" / "folder", replace(SMALL, seed=seed), set()).hash

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(start, range(4)))) == 1


HOSTILE_PLANS = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "a number": b"7",
    "a deep one": b"[" * 100_000,
    "other format": b'{"format": "x\\u001b[2J"}',
    "no settings": b'{"format": "seco plan 1"}',
}


@pytest.mark.parametrize("content", HOSTILE_PLANS.values(), ids=HOSTILE_PLANS)
def test_what_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    (tmp_path / "places.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"plan.json is not the plan of a collection") as caught:
        read_plan(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": "1"}, "its seed is of another type"),
        ({"seed": True}, "its seed is of another type"),
        ({"land_mask": 1}, "its land_mask is of another type"),
        ({"bands": "B4"}, "its bands is of another type"),
        ({"bands": [["B4"]]}, "its bands is of another type"),
        ({"bounds": [1, 2, 3]}, "its bounds is of another type"),
        ({"bounds": 7}, "its bounds is of another type"),
        ({"std_km": float("nan")}, "its std_km is of another type"),
        ({"std_km": 10**400}, "its std_km is of another type"),
        ({"match_file": 7}, "its match_file is of another type"),
        ({"more": 1}, "its settings have other names"),
        ({"num_locations": 0}, "is damaged, --num_locations must be from 1"),
        ({"num_locations": 91}, "places.csv has no places for plan.json, 90 places"),
        ({"reference_date": "today"}, "is damaged, --reference_date must be a day"),
    ],
)
def test_a_plan_with_other_settings_is_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    open_plan(tmp_path, SMALL, set())
    record = json.loads((tmp_path / "plan.json").read_text())
    record["settings"] |= change
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=sentence):
        read_plan(tmp_path)


def test_places_that_were_changed_are_refused(tmp_path: Path) -> None:
    open_plan(tmp_path, SMALL, set())
    with (tmp_path / "places.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"places.csv is not that of plan.json"):
        read_plan(tmp_path)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no plan.json: name the --save_path"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no places.csv"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        "1,0,0,32631,0,0,0",  # not the first
        "0,91,0,32631,0,0,0",
        "0,0,181,32631,0,0,0",
        "0,nan,0,32631,0,0,0",
        "0,0,0,32661,0,0,0",
        "0,0,0,32600,0,0,0",
        "0,0,0,4326,0,0,0",
        "0,0,0,32631.5,0,0,0",
        "0,0,0,32631,30,0,0",
        "0,0,0,32631,0,30,0",
        "0,0,0,32631,6e30,0,0",
        "0,0,0,32631,0,inf,0",
        "0,0,0,32631,0,0,-1",
        "0,0,0,32631,0,0,0.5",
        "0,0,0,32631,0,0",
        "0,0,0,32631,0,0,0,0",
        "0,0,0,32631,0,0,x",
        "0,0,0,32631,0,0,\xff",
        "",
    ],
)
def test_places_that_cannot_be_are_refused(row: str) -> None:
    header = "number,lat,lng,epsg,left,top,shift_days\n"
    assert len(places_from_csv((header + "0,0,0,32631,0,0,0\n").encode())) == 1
    with pytest.raises(ValueError):  # noqa: PT011 -- of NumPy, in its words
        places_from_csv((header + row + "\n").encode("latin-1"))


@settings(max_examples=60)
@given(st.integers(1, 400), st.integers(0, 900))
def test_blocks_share_all_places_and_spares(num_places: int, num_spares: int) -> None:
    plan = stub_plan(num_places, num_spares)
    blocks = blocks_of(plan)
    for number in range(3):
        assert blocks_of(plan, None, (number, 3)) == blocks[number::3]
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert [n for block in blocks for n in block.places] == list(range(num_places))
    spares = [n for block in blocks for n in block.spares]
    assert spares == list(range(num_places, num_places + num_spares))
    for block in blocks:
        assert all(number // BLOCK == block.number for number in block.places)
        fair = num_spares * len(block.places) / num_places
        assert abs(len(block.spares) - fair) < 1


@settings(max_examples=60)
@given(st.sets(st.integers(0, 199), min_size=1))
def test_blocks_of_some_places_are_those_blocks_without_spares(indices: set[int]) -> None:
    plan = stub_plan(200, 100)
    whole = {block.number: set(block.places) for block in blocks_of(plan)}
    blocks = blocks_of(plan, indices)
    for block in blocks:
        assert set(block.places) == whole[block.number] & indices != set()
        assert len(block.spares) == 0
    assert [n for block in blocks for n in block.places] == sorted(indices)


def test_places_of_a_match_file_are_taken_as_they_are(tmp_path: Path) -> None:
    plan = matched(tmp_path, "name,lng,lat\na,2.35,48.86\nb,151.2,-33.9\n")
    assert (plan.num_places, plan.num_spares) == (2, 0)
    assert plan.settings.num_locations == 2
    assert [plan.place(n).grid.epsg for n in range(2)] == [32631, 32756]
    assert plan.places.lat == pytest.approx([48.86, -33.9], abs=0.0003)
    assert blocks_of(plan)[0].places == range(2)


def test_a_list_of_ssl4eo_is_read(tmp_path: Path) -> None:
    plan = matched(tmp_path, "0,2.35,48.86\n1,151.2,-33.9\n")
    assert plan.places.lat == pytest.approx([48.86, -33.9], abs=0.0003)


def test_the_places_of_another_plan_are_collected_again(tmp_path: Path) -> None:
    other = open_plan(tmp_path, SMALL, set())
    match_file = str(tmp_path / "places.csv")
    again = make_plan(replace(SMALL, match_file=match_file, seed=99))
    assert [again.place(n) for n in range(60)] == [other.place(n) for n in range(60)]
    assert again.num_places == 60


def test_matched_places_without_shifts_get_them_from_the_seed(tmp_path: Path) -> None:
    text = "lat,lng\n" + "".join(f"{n},{n}\n" for n in range(50))
    first = matched(tmp_path, text).places.shift_days
    assert len(set(first.tolist())) > 30
    assert first.tolist() == matched(tmp_path, text).places.shift_days.tolist()
    assert first.tolist() != matched(tmp_path, text, seed=1).places.shift_days.tolist()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lat,lng\n1,2\n3,4\n1.00001,2\n", "the same place in rows 1 and 3: remove one"),
        ("lat,lng\n85,2\n", "lat 85 in row 1: it must be from -80 to 84, where UTM has zones"),
        ("lat,lng\n1,2\n1,\n", "lng nan in row 2"),
        ("lat,lng,shift_days\n1,2,0.5\n", "shift_days 0.5 in row 1"),
        ("lat,lng,shift_days\n1,2,-1\n", "shift_days -1 in row 1"),
        ("lat,lon\n1,2\n", "no column lng, only lat, lon"),
        ("lat,lng\n", "has no rows"),
    ],
)
def test_a_match_file_that_cannot_be_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        matched(tmp_path, text)


def test_patches_of_a_match_file_that_overlap_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matched(tmp_path, "lat,lng\n48.86,2.35\n48.8606,2.35\n48.9,2.35\n")
    assert "2 patches of" in capsys.readouterr().err


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=1, max_size=12))
def test_overlaps_are_those_of_all_pairs(corners: list[tuple[int, int]]) -> None:
    left, top = 60 * np.array(corners, np.int32).T
    zeros = np.zeros(len(left), np.int32)
    places = Places(zeros, zeros, zeros + 32631, left, top, zeros)
    slow = {
        (a, b)
        for b in range(len(corners))
        for a in range(b)
        if all(abs(x - y) * 60 < 120 for x, y in zip(corners[a], corners[b], strict=True))
    }
    found = overlapping(places, 12)
    assert len(found) == len(set(found))
    assert set(found) == slow


def test_more_locations_than_a_match_file_has_are_refused(tmp_path: Path) -> None:
    chosen = replace(SMALL, match_file=str(write(tmp_path, "lat,lng\n1,2\n")))
    with pytest.raises(UserError, match="has 1 places: lower --num_locations 60"):
        open_plan(tmp_path / "new", chosen, {"num_locations"})
    assert list((tmp_path / "new").iterdir()) == []
    assert open_plan(tmp_path / "new", chosen, {"match_file"}).num_places == 1


@pytest.mark.parametrize("text", ["3\n1\n59\n", "\ufeff1, 3,59", " 59 1\t3\r\n", "1\n\n3,59,\n"])
def test_indices_are_read(tmp_path: Path, text: str) -> None:
    assert read_indices(write(tmp_path, text), stub_plan(60, 0)) == {1, 3, 59}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1\ntwo\n", "has two: numbers of places are from 0 to 59"),
        ("60\n", "has 60: numbers"),
        ("-1\n", "has -1: numbers"),
        ("1.0\n", r"has 1\.0: numbers"),
        ("9" * 5000, "has 9{80}...: numbers"),
        ("٣\n", "has ٣: numbers"),
        ("1\n2\n01\n", "has 1 twice"),
        ("1\x1b[2J\n", r"has '1\\x1b\[2J': numbers"),
        (" \n", "is empty"),
    ],
)
def test_indices_with_garbage_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read_indices(write(tmp_path, text), stub_plan(60, 30))
    assert str(caught.value).isprintable()


def test_indices_are_refused_where_only_whole_blocks_have_rows(tmp_path: Path) -> None:
    plan = stub_plan(60, 0)
    plan.settings = replace(plan.settings, format="packed")
    with pytest.raises(UserError, match="cannot be collected into a packed store"):
        read_indices(write(tmp_path, "3\n"), plan)


def test_indices_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "indices").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not text"):
        read_indices(tmp_path / "indices", stub_plan(60, 0))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_indices(tmp_path / "none", stub_plan(60, 0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_locations": 0}, "--num_locations must be from 1 to"),
        ({"num_locations": 4_000_000}, "with --spares 0.5 are more"),
        ({"seed": -1}, "--seed must be"),
        ({"std_km": 0.0}, "--std_km must be"),
        ({"std_km": float("nan")}, "--std_km must be"),
        ({"patch_px": 100}, "--patch_px must be a multiple of 6"),
        ({"patch_px": 0}, "--patch_px must be from 6"),
        ({"spares": -0.1}, "--spares must be"),
        ({"num_dates": 0}, "--num_dates must be"),
        ({"interval_days": 0}, "--interval_days must be"),
        ({"window_days": 0}, "--window_days must be"),
        ({"max_shift_days": -1}, "--max_shift_days must be"),
        ({"cloud_pct": 0.0}, "--cloud_pct must be"),
        ({"cloud_pct": 101.0}, "--cloud_pct must be"),
        ({"clear_threshold": 65.0}, "--clear_threshold must be from 0 to 1"),
        ({"clear_fraction": 90.0}, "--clear_fraction must be from 0 to 1"),
        ({"sampler": "grid"}, "--sampler must be one of gaussian, uniform, bounded, not grid"),
        ({"sampler": "bounded"}, "--bounds W S E N need each other"),
        ({"bounds": (1.0, 2.0, 3.0, 4.0)}, "--bounds W S E N need each other"),
        ({"sampler": "bounded", "bounds": (1.0, 4.0, 3.0, 2.0)}, "--bounds 1 4 3 2 is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, 1.0, 4.0)}, "is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, 999.0, 4.0)}, "is not an area"),
        ({"reference_date": "30.6.2021"}, "--reference_date must be a day such as"),
        ({"reference_date": "2016-06-30"}, "--reference_date 2016-06-30 is too early"),
        ({"bands": ()}, "--bands needs distinct names"),
        ({"bands": ("B4", "B4")}, "--bands needs distinct names"),
        ({"bands": ("B10",)}, "unknown band B10"),
        ({"bands": ("B2", "B8"), "preview": True}, "--preview shows B4, which --bands leaves out"),
        ({"dtype": "uint16", "compress": "jpeg"}, "--compress jpeg holds 8 bits"),
        ({"dtype": "uint16", "format": "packed"}, "--format packed holds 8 bits"),
        ({"source": "stac"}, "--stac_url must begin with http"),
        ({"source": "stac", "stac_url": "file:///etc"}, "--stac_url must begin with http"),
        ({"source": "stac", "stac_url": "https://me:secret@x.org"}, "only open catalogues"),
        ({"source": "stac", "stac_url": "https://x.org/?token=x"}, "--stac_url contains"),
        ({"collection": ""}, "--collection must be a name"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], sentence: str) -> None:
    check_settings(SMALL)
    with pytest.raises(UserError, match=sentence):
        check_settings(replace(SMALL, **change))


def test_places_are_those_of_the_sampler(tmp_path: Path) -> None:
    bounds = (177.0, -19.0, -179.0, -16.0)
    plan = make_plan(replace(SMALL, sampler="bounded", bounds=bounds))
    assert (np.abs(plan.places.lng) > 176.9).all()
    cities = str(write(tmp_path, "lat,lng,population\n10,20,7\n"))
    plan = make_plan(replace(SMALL, sampler="gaussian", cities=cities, std_km=1.0))
    assert plan.places.lat == pytest.approx([10] * 90, abs=0.05)
    plan = make_plan(SMALL)
    assert plan.places.lat.min() < -20
    assert plan.places.lat.max() > 20


def test_a_plan_without_the_land_mask_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "global_land_mask", None)
    with pytest.raises(UserError, match="pip install global-land-mask, or give --no_land_mask"):
        make_plan(replace(SMALL, land_mask=True))


def test_the_estimate_of_the_default_is_that_of_the_note() -> None:
    """A million images: 1.0 to 1.2 M requests, 1.67 TB, 10 to 16 h in flight, 3 h at full rate."""
    plan = Plan(replace(Settings(), reference_date="2021-06-30"), some_places(600_000), "")
    values = estimate(plan, places_per_search=20)
    assert values["images"] == 1_000_000
    assert values["requests"] == 1_000_000 + 200_000 * 1.6 / 20
    assert values["bytes_received"][0] == 1_000_000 * 12 * 264 * 264 * 2
    assert values["bytes_on_disk"] == 208e9
    assert values["files"] == 13_000_000
    assert values["hours"] == pytest.approx([1_016_000 * s / 40 / 3600 for s in (1.3, 2)], abs=0.01)
    assert values["hours_at_the_highest_rate"] == pytest.approx(1_016_000 / 360_000, abs=0.01)
    assert values["eecu_seconds_per_image"]["Community"] == 0.54
    assert values["eecu_seconds_per_image"]["Contributor"] == 3.6


def test_the_estimate_tells_what_it_assumes() -> None:
    text = estimate_text(stub_plan(60, 30), 20)
    assert "assumed, never measured" in text
    assert "300" in text
    stac = Plan(replace(SMALL, source="stac", format="packed"), some_places(90), "")
    values = estimate(stac, 1)
    assert values["requests"] == 90 + 300 * 40
    assert values["bytes_on_disk"] == 300 * 12 * 144
    assert "EECU" not in estimate_text(stac, 1)


def test_places_are_drawn_on_a_map(tmp_path: Path) -> None:
    plot_places(tmp_path / "plan.png", stub_plan(60, 30))
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["plan.json", "places.csv", "journal.jsonl", "status.json"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(
    tmp_path: Path, name: str
) -> None:
    plan = open_plan(tmp_path, SMALL, set())
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)

    with pytest.raises(UserError, match=f"{name}.*not a regular file"):
        summarise(tmp_path, read_plan(tmp_path))
    if name == "journal.jsonl":
        with pytest.raises(UserError, match=name), Journal(tmp_path, plan.hash).opened():
            pass
