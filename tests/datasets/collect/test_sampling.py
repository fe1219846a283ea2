"""Where and when: properties of the places, each restated slowly."""

import hashlib

import numpy as np
import pytest

from datasets.collect.cities import read_city_table
from datasets.collect.sampling import (
    IsLand,
    Places,
    Sampler,
    around,
    bounded,
    gaussian,
    land_mask,
    sample_places,
    uniforms,
    within_zone,
)
from datasets.collect.utm import from_utm, to_utm, utm_epsg, wrapped
from utils.errors import UserError

EARTH_M = 6_371_008.8
GLOBE = (-180.0, -90.0, 180.0, 90.0)
# Where zones meet: a meridian, the equator, 180 degrees, and the odd borders of MGRS.
BORDERS = {
    "meridian": (5.9, 40.0, 6.1, 40.3),
    "equator": (20.0, -0.15, 20.3, 0.15),
    "180 degrees": (179.7, 65.0, -179.7, 65.3),
    "31V to 32V": (2.8, 60.0, 3.2, 60.2),
    "south of 32V": (3.3, 55.9, 3.7, 56.1),
    "north of 32V": (4.0, 63.9, 5.0, 64.1),
    "31X to 33X": (8.7, 75.0, 9.3, 75.2),
    "south of 33X": (10.0, 71.9, 11.0, 72.1),
}


def drawn(
    sampler: Sampler,
    count: int,
    *,
    seed: int = 0,
    is_land: IsLand | None = None,
    patch_px: int = 264,
) -> Places:
    return sample_places(
        seed,
        count,
        sampler,
        patch_px=patch_px,
        max_shift_days=365,
        is_land=is_land,
    )


def rows(places: Places, start: int = 0, stop: int | None = None) -> list[tuple[float, ...]]:
    columns = [column[start:stop].tolist() for column in vars(places).values()]
    return list(zip(*columns, strict=True))


def metres(lat: np.ndarray, lng: np.ndarray, origin: tuple[float, float]) -> np.ndarray:
    """Offsets to the east and north of an origin, by azimuth and distance on the sphere."""
    a, b = np.radians(lat), np.radians(origin[0])
    turn = np.radians(lng - origin[1])
    cosine = np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(turn)
    azimuth = np.arctan2(
        np.sin(turn) * np.cos(a), np.cos(b) * np.sin(a) - np.sin(b) * np.cos(a) * np.cos(turn)
    )
    return EARTH_M * np.arccos(cosine) * np.array([np.sin(azimuth), np.cos(azimuth)])


@pytest.mark.difference("collect-seed")
def test_numbers_of_a_candidate_do_not_depend_on_who_draws_them() -> None:
    whole = uniforms(7, 0, 100)
    parts = [uniforms(7, first, 10) for first in range(0, 100, 10)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert uniforms(8, 0, 100).tolist() != whole.tolist()


def test_the_generator_is_philox_4x64_10() -> None:
    """The known answer of its authors' Random123 for key and counter 0; NumPy counts first."""
    words = np.random.Philox(key=0, counter=2**256 - 1).random_raw(4)
    assert [f"{word:016x}" for word in words] == [
        "16554d9eca36314c",
        "db20fe9d672d0fdc",
        "d7e772cee186176b",
        "7e68b68aec7ba23b",
    ]


def test_fewer_places_are_the_beginning_of_more() -> None:
    sampler = gaussian(read_city_table("geonames"), 50)
    more = drawn(sampler, 8000, seed=3)
    for count in (1, 500, 4000):
        assert rows(drawn(sampler, count, seed=3)) == rows(more, 0, count)


def test_places_are_the_first_candidate_of_each_cell_that_fits() -> None:
    """All at once is the same as one candidate after the other."""
    sampler = bounded(-179, -60, 179, 30)
    expected: dict[tuple[int, int, int], list[int]] = {}
    for number in range(1000):
        numbers = uniforms(5, number, 1)
        lat, lng = (float(x[0]) for x in sampler(numbers))
        epsg = int(utm_epsg(lat, lng))
        x, y = (float(value) for value in to_utm(lat, lng, epsg))
        equator = 10_000_000 * (epsg > 32700)
        left, top = int(x // 11_820) * 11_820, int((y - equator) // 11_820 + 1) * 11_820 + equator
        around = np.meshgrid([left - 10, left + 11_830], [top + 10, top - 11_830])
        corners = from_utm(*around, epsg)
        if (utm_epsg(*corners) == epsg).all() and corners[0].min() > -56:
            shift = int(numbers[0, 3] * 365)
            expected.setdefault((epsg, left, top), [epsg, left, top, shift])
    places = drawn(sampler, len(expected), seed=5, patch_px=1182)
    assert 600 < len(expected) < 1000
    assert [list(row[2:]) for row in rows(places)] == list(expected.values())


@pytest.mark.parametrize("lat", [0.0, 60.0])
@pytest.mark.difference("collect-width")
def test_offsets_are_normal_in_metres_along_both_axes(lat: float) -> None:
    at = gaussian(np.array([[lat, 9.0]]), 50)(uniforms(0, 0, 200_000))
    east, north = metres(*at, (lat, 9.0)) / 50_000
    for axis in (east, north):
        assert axis.mean() == pytest.approx(0, abs=0.01)
        assert axis.std() == pytest.approx(1, abs=0.01)
        assert np.mean(np.abs(axis) < 1) == pytest.approx(0.6827, abs=0.005)
        assert np.mean(np.abs(axis) < 2) == pytest.approx(0.9545, abs=0.003)
    assert np.mean(east * north) == pytest.approx(0, abs=0.01)


def test_all_cities_are_as_likely() -> None:
    cities = np.stack([np.zeros(5), np.arange(-60.0, 61, 30)], 1)
    _, lng = gaussian(cities, 1)(uniforms(0, 0, 50_000))
    nearest, counts = np.unique(np.round(lng / 30), return_counts=True)
    assert counts == pytest.approx([10_000] * 5, rel=0.04)
    for city in nearest:  # offsets do not depend on the city
        own = lng[np.round(lng / 30) == city] - 30 * city
        assert np.radians(own.std()) * EARTH_M == pytest.approx(1000, rel=0.03)


@pytest.mark.difference("collect-wrap")
def test_places_around_180_degrees_are_wrapped() -> None:
    """A city of Fiji has places on either side."""
    places = drawn(gaussian(np.array([[-16.8, 179.99]]), 50), 200)
    assert places.lng.min() < -179
    assert places.lng.max() > 179
    assert np.abs(places.lng).max() <= 180
    offsets = metres(places.lat, places.lng, (-16.8, 179.99))
    assert np.abs(offsets).max() < 5.5 * 50_000
    assert set(places.epsg.tolist()) == {32701, 32760}


def test_a_city_at_the_pole_scatters_over_it() -> None:
    lat, lng = gaussian(np.array([[89.9, 0.0]]), 100)(uniforms(0, 0, 1000))
    assert np.mean(np.abs(lng) > 90) > 0.4
    assert lat.max() <= 90


def test_uniform_places_are_even_by_area() -> None:
    lat, lng = bounded(*GLOBE)(uniforms(0, 0, 100_000))
    assert np.mean(np.abs(lat) < 30) == pytest.approx(0.5, abs=0.01)
    assert np.mean(lng < -90) == pytest.approx(0.25, abs=0.01)


def test_bounds_that_cross_180_degrees_are_kept() -> None:
    places = drawn(bounded(177, -19, -179, -16), 300)
    assert ((places.lng > 176.95) | (places.lng < -178.95)).all()
    assert (places.lng > 0).mean() == pytest.approx(3 / 4, abs=0.1)
    assert places.lat.min() > -19.05
    assert places.lat.max() < -15.95


@pytest.mark.parametrize("name", BORDERS)
@pytest.mark.difference("collect-overlap")
def test_patches_are_in_their_zone_and_never_overlap_even_where_zones_meet(name: str) -> None:
    """Points just inside of a patch's outline lie in no patch of another zone."""
    side = 2640
    places = drawn(bounded(*BORDERS[name]), 40)
    lines = places.top - 10_000_000 * (places.epsg > 32700)
    cells = list(zip(places.epsg, places.left // side, lines // side, strict=True))
    assert len(set(cells)) == len(cells)
    assert (places.left % side == 0).all()
    assert (lines % side == 0).all()
    zones = set(places.epsg.tolist())
    assert len(zones) == 2
    for east, north in [(0, 0), (side, 0), (0, -side), (side, -side), (1320, 0), (1320, -side)]:
        corner = from_utm(places.left + east, places.top + north, places.epsg)
        assert utm_epsg(*corner).tolist() == places.epsg.tolist()
    lat, lng = from_utm(places.left + 1320, places.top - 1320, places.epsg)
    assert np.abs(lat - places.lat).max() <= 0.51e-6
    assert np.abs(wrapped(lng - places.lng)).max() <= 0.51e-6
    steps = np.linspace(0.001, side - 0.001, 25)
    ends = np.full_like(steps, 0.001)
    x = np.concatenate([steps, steps, ends, side - ends])
    y = np.concatenate([ends, side - ends, steps, steps])
    for epsg, left, top in zip(places.epsg, places.left, places.top, strict=True):
        for other in zones - {int(epsg)}:
            right, up = to_utm(*from_utm(left + x, top - y, epsg), other)
            up = up - 10_000_000 * (other > 32700)
            hit = zip(right // side, up // side + 1, strict=True)
            assert not {(other, *cell) for cell in hit} & set(cells)


def test_an_edge_does_not_bulge_over_the_parallel_that_ends_a_zone() -> None:
    """The largest patches, metre by metre below 64 N in 32V: between corners the edge is higher."""
    _, north = to_utm(63.9999, 3.5, 32632)
    top = int(north) + np.arange(-1500, 1500, dtype=np.int32)
    same = np.zeros_like(top)
    places = Places(same, same, same + 32632, same + 225_000, top, same)
    fits = within_zone(places, 1182)
    assert 0 < fits.sum() < len(fits)
    for x in np.linspace(0, 11_820, 30):
        lat, lng = from_utm(places.left + x, places.top, places.epsg)
        assert (utm_epsg(lat, lng)[fits] == 32632).all()


def test_nothing_is_placed_where_sentinel_2_does_not_look() -> None:
    assert drawn(bounded(0, 82.8, 40, 90), 100).lat.max() < 83
    with pytest.raises(UserError, match="only 0 places were found of 1 "):
        drawn(bounded(0, -90, 40, -56.1), 1)


@pytest.mark.difference("collect-land")
def test_places_are_on_land() -> None:
    sampler = bounded(-10, 35, 20, 60)
    is_land = land_mask()
    places = drawn(sampler, 2000, is_land=is_land)
    assert is_land(places.lat, places.lng).all()
    assert (~is_land(*sampler(uniforms(0, 0, 2000)))).mean() > 0.2
    chukotka = [(67.0, 179.5), (67.0, -179.5)]
    on_land = np.array([(48.86, 2.35), (-1.0, 33.0), (23.0, 10.0), (-90.0, 0.0), *chukotka])
    at_sea = np.array([(0.0, -25.0), (45.0, -5.0), (90.0, 180.0), (-30.0, -180.0), (58.0, 20.0)])
    assert is_land(*on_land.T).all()
    assert not is_land(*at_sea.T).any()
    grid = np.meshgrid(np.linspace(35, 60, 400), np.linspace(-10, 20, 400))
    digest = hashlib.sha256(np.packbits(is_land(*grid)).tobytes()).hexdigest()
    assert digest.startswith("0041f24b83fec7ef")  # of global_land_mask.globe.is_land, 1.0.0


def test_an_area_that_is_too_small_tells_how_many_places_fit() -> None:
    """About 30 km by 33 km without the cells on its rim: 120 to 165 patches."""
    with pytest.raises(UserError, match=r"^only 1[2-6]\d places were found of 5000 ") as caught:
        drawn(bounded(10, 50, 10.42, 50.3), 5000)
    assert "--num_locations" in str(caught.value)


def test_shifts_are_even_over_a_year() -> None:
    shifts = drawn(bounded(*GLOBE), 8000).shift_days
    assert shifts.min() == 0
    assert shifts.max() == 364
    assert shifts.mean() == pytest.approx(182, abs=4)


def test_places_are_found_again_from_their_centres() -> None:
    places = drawn(bounded(*GLOBE), 3000)
    again = around(places.lat, places.lng, 264)
    assert again.left.tolist() == places.left.tolist()
    assert again.top.tolist() == places.top.tolist()


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


@pytest.mark.parametrize(
    ("lat", "lng", "epsg", "east", "north"),
    [
        (0.0, 3.0, 32631, 500_000.0, 0.0),
        (0.0, 3.0, 32731, 500_000.0, 10_000_000.0),
        # 0.9996 of the meridian's arcs of WGS 84: 4,984,944.378 m and a quadrant of 10,001,965.729.
        (45.0, 9.0, 32632, 500_000.0, 0.9996 * 4_984_944.378),
        (-45.0, 9.0, 32732, 500_000.0, 10_000_000.0 - 0.9996 * 4_984_944.378),
        (90.0, 9.0, 32632, 500_000.0, 0.9996 * 10_001_965.729),
    ],
)
def test_the_projection_has_the_published_arcs(
    lat: float, lng: float, epsg: int, east: float, north: float
) -> None:
    found = [float(value) for value in to_utm(lat, lng, epsg)]
    assert found == pytest.approx([east, north], abs=2e-3)


def test_points_come_back_from_zones_of_their_own() -> None:
    rng = np.random.default_rng(0)
    lat, lng = rng.uniform(-80, 84, (40, 50)), rng.uniform(-180, 180, (40, 50))
    back_lat, back_lng = from_utm(*to_utm(lat, lng, utm_epsg(lat, lng)), utm_epsg(lat, lng))
    assert np.abs(back_lat - lat).max() < 1e-9
    assert np.abs(wrapped(back_lng - lng)).max() < 1e-8
