"""Projection against PROJ, zones against the definition of MGRS."""

import numpy as np
import pytest
from rasterio.warp import transform

from datasets.collect.utm import from_utm, to_utm, utm_epsg, wrapped


def some_points(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(-80, 84, count), rng.uniform(-180, 180, count)


def test_projection_agrees_with_proj_to_a_millimetre() -> None:
    lat, lng = some_points(2000)
    epsg = utm_epsg(lat, lng)
    x, y = to_utm(lat, lng, epsg)
    back_lat, back_lng = from_utm(x, y, epsg)
    for code in np.unique(epsg):
        own = epsg == code
        expected = np.array(transform("EPSG:4326", f"EPSG:{code}", lng[own], lat[own]))
        assert np.abs(np.array([x[own], y[own]]) - expected).max() < 1e-3
    assert np.abs(back_lat - lat).max() < 1e-9
    assert np.abs(wrapped(back_lng - lng)).max() < 1e-8


def test_points_outside_of_the_zone_agree_as_well() -> None:
    lat, lng = np.array([60.0, 83.9, -79.0, 1.0]), np.array([0.0, 20.0, -179.0, 179.5])
    epsg = np.array([32632, 32631, 32760, 32601])
    x, y = to_utm(lat, lng, epsg)
    for row, code in enumerate(epsg):
        (east,), (north,) = transform("EPSG:4326", f"EPSG:{code}", [lng[row]], [lat[row]])
        assert x[row] == pytest.approx(east, abs=1e-3)
        assert y[row] == pytest.approx(north, abs=1e-3)


@pytest.mark.parametrize(
    ("lat", "lng", "epsg"),
    [
        (10.0, 0.0, 32631),
        (10.0, -0.001, 32630),
        (-0.001, 0.0, 32731),
        (0.0, 0.0, 32631),
        (10.0, -180.0, 32601),
        (10.0, 180.0, 32601),
        (10.0, 179.999, 32660),
        (55.999, 5.0, 32631),  # south of 31V
        (56.0, 5.0, 32632),  # 32V begins at 3 E
        (56.0, 2.999, 32631),
        (63.999, 3.0, 32632),
        (64.0, 3.0, 32631),
        (60.0, 12.0, 32633),
        (71.999, 8.0, 32632),
        (72.0, 8.0, 32631),  # 31X ends at 9 E
        (78.0, 9.0, 32633),
        (78.0, 20.999, 32633),
        (78.0, 21.0, 32635),
        (78.0, 33.0, 32637),
        (78.0, 41.999, 32637),
        (78.0, 42.0, 32638),
        (78.0, -0.001, 32630),
    ],
)
def test_zones_have_the_exceptions_of_norway_and_svalbard(
    lat: float, lng: float, epsg: int
) -> None:
    assert utm_epsg(lat, lng) == epsg


def test_longitudes_of_any_turn_are_wrapped() -> None:
    turns = wrapped([181, -181, 540, 180, -180, -180 - 1e-20, 359])
    assert turns.tolist() == [-179, 179, -180, -180, -180, -180, -1]
