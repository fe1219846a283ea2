"""The plan of a collection: made once, read again, refused where it is not the same."""

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets.collect.sampling as collect_sampling
from datasets.collect.estimate import estimate, plot_places
from datasets.collect.journal import Journal, Record, read_journals
from datasets.collect.places import places_from_csv, places_to_csv
from datasets.collect.plan import Plan, make_plan, open_plan, read_plan, write_plan
from datasets.collect.report import summarise
from datasets.collect.settings import Settings, check_settings
from tests.references.place_files import stub_plan
from utils.errors import UserError
from utils.files import read_file
from utils.locks import sole_writer

SMALL = Settings(
    num_locations=60,
    sampler="uniform",
    land_mask=False,
    patch_px=12,
    spares=0.5,
    reference_date="2021-06-30",
)


def matched(folder: Path, text: str, **changes: Any) -> Plan:
    (folder / "list.csv").write_text(text)
    return make_plan(replace(SMALL, match_file=str(folder / "list.csv"), **changes))


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


@pytest.mark.difference("collect-today")
def test_places_have_the_windows_of_the_paper_and_their_grids() -> None:
    """Fifteen days, twelve weeks apart, the newest centred four weeks before the reference."""
    plan = make_plan(replace(SMALL, reference_date="2021-01-29"))
    place = plan.place(77)
    assert (place.number, place.name) == (77, "000077")
    assert (place.grid.epsg, place.grid.left) == (plan.places.epsg[77], plan.places.left[77])
    assert place.grid.size_px == 12
    shift = int(plan.places.shift_days[77])
    newest = date(2021, 1, 1).toordinal() - shift
    middles = [window.start.toordinal() + 7 for window in place.windows]
    assert middles == [newest - 7 * 12 * step for step in range(5)]
    assert {(window.end - window.start).days for window in place.windows} == {15}
    with pytest.raises(IndexError):
        plan.place(90)


def test_the_reference_is_today_and_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = datetime.now(UTC).date().isoformat()
    unset = replace(SMALL, reference_date="")
    first = open_plan(tmp_path, unset, set()).settings.reference_date
    assert before <= first <= datetime.now(UTC).date().isoformat()
    monkeypatch.setattr("datasets.collect.plan.datetime", None)  # the clock is not read again
    assert open_plan(tmp_path, unset, set()).settings.reference_date == first


@pytest.mark.parametrize("kept", ["000017", "manifest.json", "a record"])
def test_a_flag_that_differs_from_a_plan_with_data_is_refused_and_changes_nothing(
    tmp_path: Path, kept: str
) -> None:
    plan = open_plan(tmp_path, SMALL, set())
    if kept == "a record":
        with Journal(tmp_path, plan.hash).opened() as journal:
            journal.add(Record(3, "done"))
    else:
        (tmp_path / kept).touch()
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
    digest = hashlib.sha256(places_to_csv(plan.places)).hexdigest()
    assert Plan(plan.settings, plan.places, digest).hash != plan.hash
    write_plan(tmp_path, Plan(plan.settings, plan.places, digest))
    (tmp_path / "000000").mkdir()
    with pytest.raises(UserError, match=f"^--{name} is "):
        open_plan(tmp_path, other, {name})


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

    (tmp_path / "list.csv").write_text("lat,lng\n0.5,0.5\n")
    listed = replace(given, match_file=str(tmp_path / "list.csv"))
    assert open_plan(tmp_path, listed, {"match_file"}).num_places == 1
    assert open_plan(tmp_path, given, {"match_file"}).num_places == 60


def test_a_plan_that_cannot_be_made_or_is_in_use_does_not_replace_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = open_plan(tmp_path, SMALL, set())
    with Journal(tmp_path, plan.hash).opened():
        pass
    with pytest.raises(UserError, match="--num_dates"):
        open_plan(tmp_path, replace(SMALL, num_dates=0), {"num_dates"})
    with (
        sole_writer(tmp_path / "journal.lock", ""),  # of another process
        pytest.raises(UserError, match="another process collects into"),
    ):
        open_plan(tmp_path, replace(SMALL, seed=7), {"seed"})
    assert read_plan(tmp_path).settings == SMALL
    assert open_plan(tmp_path, replace(SMALL, seed=7), {"seed"}).settings.seed == 7


@pytest.mark.parametrize("name", ["000017", "manifest.json", "journal.jsonl"])
def test_a_folder_with_data_of_no_plan_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"has no plan.json, but already {name}: choose another"):
        open_plan(tmp_path, SMALL, set())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).rename(tmp_path / "places.csv")  # as if the plan had been cut off
    assert open_plan(tmp_path, SMALL, set()).hash == make_plan(SMALL).hash


def test_shards_that_start_together_have_one_plan(tmp_path: Path) -> None:
    """The places of each seed differ: the first to come decides. The lock is of a descriptor."""

    def start(seed: int) -> str:
        return open_plan(tmp_path / "new" / "folder", replace(SMALL, seed=seed), set()).hash

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(start, range(4)))) == 1


HOSTILE = [b"", b"{", b"\xff\xfe", b"7", b"[" * 100_000, b'{"format": "x\\u001b[2J"}',
           b'{"format": "seco plan 1"}']  # fmt: skip
REFUSED = r"plan.json is not the plan of a collection .*{}.*: restore it and places.csv"


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_not_a_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"has no plan.json: name the --save_path"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(UserError, match=r"has no places.csv"):
        read_plan(tmp_path)
    (tmp_path / "places.csv").write_bytes(b"")
    with pytest.raises(UserError, match=REFUSED.format("")) as caught:
        read_plan(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": "1"}, "--seed must be from"),
        ({"seed": True}, "--seed must be from"),
        ({"num_dates": 2.5}, "--num_dates must be from"),
        ({"land_mask": 1}, "--land_mask must be bool"),
        ({"bands": "B4"}, "--bands must be tuple"),
        ({"bands": [["B4"]]}, ""),
        ({"bounds": [1, 2, 3]}, ""),
        ({"bounds": 7}, ""),
        ({"std_km": float("nan")}, "--std_km must be from"),
        ({"std_km": 10**400}, "--std_km must be from"),
        ({"sampler": 7}, "--sampler must be one of"),
        ({"more": 1}, "more"),
        ({"num_locations": 91}, "places.csv has 90 places"),
        ({"reference_date": "today"}, "--reference_date must be a day"),
    ],
)
def test_a_plan_with_other_settings_is_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    open_plan(tmp_path, SMALL, set())
    record = json.loads((tmp_path / "plan.json").read_text())
    record["settings"] |= change
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=REFUSED.format(sentence)):
        read_plan(tmp_path)


def test_places_that_were_changed_are_refused(tmp_path: Path) -> None:
    open_plan(tmp_path, SMALL, set())
    with (tmp_path / "places.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=REFUSED.format("places.csv is another one")):
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
        "0,0,0,32631,0,20,0",  # the lattice of the south
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
    assert len(places_from_csv((header + "0,0,0,32731,0,20,0\n").encode())) == 1
    with pytest.raises(ValueError):  # noqa: PT011 -- of NumPy, in its words
        places_from_csv((header + row + "\n").encode("latin-1"))


def test_places_of_a_match_file_are_taken_as_they_are(tmp_path: Path) -> None:
    plan = matched(tmp_path, "name,lng,lat\na,2.35,48.86\nb,151.2,-33.9\n")
    assert (plan.num_places, plan.num_spares) == (2, 0)
    assert plan.settings.num_locations == 2
    assert [plan.place(n).grid.epsg for n in range(2)] == [32631, 32756]
    assert plan.places.lat == pytest.approx([48.86, -33.9], abs=0.0003)
    of_ssl4eo = matched(tmp_path, "0,2.35,48.86\n1,151.2,-33.9\n")
    assert of_ssl4eo.places_sha256 == plan.places_sha256


def test_the_places_of_another_plan_are_collected_again(tmp_path: Path) -> None:
    """As many as it collects; its spares stay spares, or are left out."""
    other = open_plan(tmp_path, SMALL, set())
    chosen = replace(SMALL, match_file=str(tmp_path / "places.csv"), seed=99, num_locations=200_000)
    again = make_plan(chosen)
    assert [again.place(n) for n in range(90)] == [other.place(n) for n in range(90)]
    assert (again.num_places, again.settings.num_locations) == (60, 60)
    for changes, counts in (
        ({"spares": 0.0}, (60, 0)),
        ({"num_locations": 10}, (10, 5)),
        ({"num_locations": 10, "spares": 9.0}, (10, 30)),
    ):
        fewer = make_plan(replace(chosen, **changes))
        assert (fewer.num_places, fewer.num_spares) == counts
        assert fewer.place(fewer.num_places - 1).grid == other.place(fewer.num_places - 1).grid
        if fewer.num_spares:
            assert fewer.place(fewer.num_places).grid == other.place(60).grid
    (tmp_path / "plan.json").unlink()  # any list of places
    assert (make_plan(chosen).num_places, make_plan(chosen).num_spares) == (90, 0)


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
        ("lat,lng\n1,2\n85,2\n", "lat 85 .*in row 2: lat must be from -80 to 84, where UTM has"),
        ("lat,lng\n1,2\n1,\n", r"row 2 has no lat in -90\.\.90 and lng"),
        ("lat,lng,shift_days\n1,2,0.5\n", "shift_days 0.5 in row 1"),
        ("lat,lng,shift_days\n1,2,-1\n", "shift_days -1 in row 1"),
        ("lat,lon\n1,2\n", "'lng' is not in list"),
    ],
)
def test_a_match_file_that_cannot_be_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"--match_file .*{sentence}"):
        matched(tmp_path, text)


def test_more_locations_than_a_match_file_has_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("lat,lng\n1,2\n")
    chosen = replace(SMALL, match_file=str(tmp_path / "list.csv"))
    with pytest.raises(UserError, match="has 1 places: lower --num_locations 60"):
        open_plan(tmp_path / "new", chosen, {"num_locations"})
    assert list((tmp_path / "new").iterdir()) == []
    assert open_plan(tmp_path / "new", chosen, {"match_file"}).num_places == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_locations": 0}, "--num_locations must be from 1 to"),
        ({"num_locations": 4_000_000}, "with --spares 0.5 are more"),
        *(({name: -1}, f"--{name} must be") for name in ("seed", "spares", "max_shift_days")),
        *(({name: 0}, f"--{name} must be") for name in ("num_dates", "interval_days")),
        *(({name: 0}, f"--{name} must be") for name in ("window_days", "std_km", "cloud_pct")),
        ({"cloud_pct": 101.0}, "--cloud_pct must be"),
        ({"patch_px": 100}, "--patch_px must be a multiple of 6"),
        ({"patch_px": 0}, "--patch_px must be from 6"),
        ({"clear_threshold": 65.0}, "--clear_threshold must be from 0 to 1"),
        ({"clear_fraction": 90.0}, "--clear_fraction must be from 0 to 1"),
        ({"sampler": "grid"}, "--sampler must be one of gaussian, uniform, bounded, not grid"),
        ({"sampler": "bounded"}, "--bounds W S E N need each other"),
        ({"bounds": (1.0, 2.0, 3.0, 4.0)}, "--bounds W S E N need each other"),
        ({"sampler": "bounded", "bounds": (1.0, 4.0, 3.0, 2.0)}, "--bounds 1 4 3 2 is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, 1.0, 4.0)}, "is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, 999.0, 4.0)}, "is not an area"),
        ({"sampler": "bounded", "bounds": (-999.0, 2.0, 1.0, 4.0)}, "is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, float("nan"), 4.0)}, "is not an area"),
        ({"reference_date": "30.6.2021"}, "--reference_date must be a day such as"),
        ({"reference_date": "2017-07-05"}, "744 days .* launch of Sentinel-2 on 2015-06-23"),
        ({"bands": ()}, "--bands needs distinct names"),
        ({"bands": ("B4", "B4")}, "--bands needs distinct names"),
        ({"bands": ("B10",)}, "unknown band B10"),
        ({"bands": ("B2", "B8"), "preview": True}, "--preview shows B4, which --bands leaves out"),
        ({"dtype": "uint16", "compress": "jpeg"}, "hold 8 bits: give --dtype uint8"),
        ({"dtype": "uint16", "format": "packed"}, "hold 8 bits: give --dtype uint8"),
        ({"source": "stac"}, "--stac_url must begin with http"),
        ({"source": "stac", "stac_url": "file:///etc"}, "--stac_url must begin with http"),
        ({"source": "stac", "stac_url": "https://me:secret@x.org"}, "only open catalogues"),
        ({"source": "stac", "stac_url": "https://x.org/?token=x"}, "only open catalogues"),
        ({"collection": ""}, "--collection must be a name"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], sentence: str) -> None:
    check_settings(SMALL)
    # The oldest window begins 4 * 84 + 15 + 365 + 28 days before.
    check_settings(replace(SMALL, reference_date="2017-07-06"))
    with pytest.raises(UserError, match=sentence):
        check_settings(replace(SMALL, **change))


def test_places_are_those_of_the_sampler(tmp_path: Path) -> None:
    plan = make_plan(replace(SMALL, sampler="bounded", bounds=(177.0, -19.0, -179.0, -16.0)))
    assert (np.abs(plan.places.lng) > 176.9).all()
    (tmp_path / "cities.csv").write_text("lat,lng,population\n10,20,7\n")
    cities = str(tmp_path / "cities.csv")
    plan = make_plan(replace(SMALL, sampler="gaussian", cities=cities, std_km=1.0))
    assert plan.places.lat == pytest.approx([10] * 90, abs=0.05)
    plan = make_plan(SMALL)
    assert plan.places.lat.min() < -20
    assert plan.places.lat.max() > 20


def test_a_plan_without_the_land_mask_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_sampling, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install global-land-mask, or give --no_land_mask"):
        make_plan(replace(SMALL, land_mask=True))


def test_the_estimate_of_the_default_is_that_of_the_note(tmp_path: Path) -> None:
    """A million images: 1.0 to 1.2 M requests, 1.67 TB, 10 to 16 h in flight, 3 h at full rate."""
    facts = estimate(stub_plan(200_000, 400_000, patch_px=264), places_per_search=20)
    assert facts["images"] == "1,000,000"
    assert facts["requests *"] == f"{1_000_000 + 200_000 * 16 // 200:,}, 1.02 per image"
    assert facts["received *"] == "1.673 TB"  # 12 bands of 264 squared, 2 bytes
    assert facts["on disk *"] == "208 GB, 13,000,000 files"
    assert facts["time *"] == "9.2 to 14 hours with 40 requests in flight"
    assert facts["time at least"] == "2.8 hours at 100 requests per second"
    assert facts["Community tier"] == "enough below 0.54 EECU-seconds per image"
    assert facts["Contributor tier"] == "enough below 3.6 EECU-seconds per image"
    small = stub_plan(60, 30)
    assert "enough below 1,200,000 EECU" in estimate(small, 20)["Partner tier"]
    assert "measures the EECU-seconds" in estimate(small, 20)["* assumed"]
    assert estimate(small, 20)["time *"].startswith("less than a minute with")
    assert estimate(stub_plan(2_000, 0), 20)["time *"].startswith("5.5 to 8.4 minutes with")
    stac = stub_plan(60, 30, source="stac", format="packed")
    facts = estimate(stac, 1)
    assert facts["requests *"].startswith(f"{90 + 300 * 40:,}, ")
    assert facts["on disk *"] == "518 kB, few files"  # 300 x 12 x 144
    assert facts["received *"] == "3 GB to 4.5 GB"
    assert "EECU" not in str(facts)
    plot_places(tmp_path / "plan.png", small)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["plan.json", "places.csv", "journal.jsonl", "status.json"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(
    tmp_path: Path, name: str
) -> None:
    plan = open_plan(tmp_path, SMALL, set())
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)

    with pytest.raises(UserError, match="not a regular file") as caught:
        summarise(tmp_path, read_plan(tmp_path))
    assert name in str(caught.value)
    if name == "journal.jsonl":
        with pytest.raises(UserError, match=name), Journal(tmp_path, plan.hash).opened():
            pass


@pytest.mark.parametrize("name", ["plan.json", "places.csv"])
def test_plan_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    open_plan(tmp_path, SMALL, set())

    def refuse(path: Path, *limit: int) -> bytes:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_file(path, *limit)

    monkeypatch.setattr("datasets.collect.plan.read_file", refuse)
    with pytest.raises(UserError, match=rf"{name}: Permission denied: change the permissions"):
        read_plan(tmp_path)
