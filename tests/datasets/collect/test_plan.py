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
from datasets.collect.journal import Journal, Record, read_journals
from datasets.collect.places import places_to_csv
from datasets.collect.plan import Plan, make_plan, open_plan, read_plan, write_plan
from datasets.collect.report import summarise
from datasets.collect.settings import Settings
from tests.references.place_files import SMALL, stub_plan
from utils.errors import UserError
from utils.files import read_file
from utils.locks import sole_writer


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
