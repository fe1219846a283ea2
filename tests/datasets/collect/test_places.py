"""Places as CSV: those of a plan, and those of a user's own file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets.collect.places import places_from_csv
from datasets.collect.plan import Plan, make_plan, open_plan
from tests.references.place_files import SMALL
from utils.errors import UserError


def matched(folder: Path, text: str, **changes: Any) -> Plan:
    (folder / "list.csv").write_text(text)
    return make_plan(replace(SMALL, match_file=str(folder / "list.csv"), **changes))


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
