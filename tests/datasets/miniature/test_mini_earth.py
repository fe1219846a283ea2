"""The miniature Earth: true layouts, seasons, and labels that need spatial structure."""

import hashlib
import json
import resource
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datasets import mini_earth
from datasets.bands import ALL_BANDS, RESOLUTION_M, RGB_BANDS
from datasets.miniature.covers import COVER_NAMES, draw_place
from datasets.miniature.files import Grid
from datasets.miniature.oscd import build
from datasets.miniature.render import observe
from datasets.miniature.surfaces import (
    SENSOR_BANDS,
    Climate,
    Surface,
    Weather,
    draw_climate,
    draw_weather,
    reflect,
)
from tests.references.script import exit_code
from utils.errors import UserError

REAL_PATCHES = Path(__file__).parents[4] / "shared" / "data" / "bigearthnet_tiny"
RED, NEAR_INFRARED = SENSOR_BANDS.index("B4"), SENSOR_BANDS.index("B8")


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read())


@pytest.fixture(scope="module")
def seco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A side that 60 m do not divide is rounded up."""
    root = tmp_path_factory.mktemp("seco")
    mini_earth.write_seco(root, num_places=3, num_dates=4, size=50, previews=True)
    return root


@pytest.fixture(scope="module")
def eurosat_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eurosat")
    mini_earth.write_eurosat(root, images_per_class=40, num_workers=1)
    return root


def test_a_seco_scene_has_twelve_bands_of_their_resolution_and_its_properties(
    seco_root: Path,
) -> None:
    assert sorted(path.name for path in seco_root.iterdir()) == ["000000", "000001", "000002"]
    scenes = sorted(path for path in (seco_root / "000001").iterdir() if path.is_dir())
    assert len(scenes) == 4
    corners = set()
    for scene in scenes:
        assert {path.stem for path in scene.glob("*.tif")} == set(ALL_BANDS)
        for path in scene.glob("*.tif"):
            resolution_m = RESOLUTION_M[path.stem]
            with rasterio.open(path) as file:
                assert file.shape == ({10: 50, 20: 25, 60: 9}[resolution_m],) * 2
                assert (file.count, file.dtypes) == (1, ("uint8",))
                assert file.res == (resolution_m, resolution_m)
                assert file.crs.is_projected
                corners.add((file.bounds.left, file.bounds.top))
        properties = json.loads((scene / "metadata.json").read_text())
        start = datetime.fromtimestamp(properties["system:time_start"] / 1000, UTC)
        assert scene.name.startswith(f"{start:%Y%m%dT%H%M%S}_")
        assert scene.name.endswith("_T" + properties["MGRS_TILE"])
        assert properties["CLOUDY_PIXEL_PERCENTAGE"] < 10
    assert len(corners) == 1


def test_a_preview_shows_the_stored_bands_brightened_to_30_percent(seco_root: Path) -> None:
    preview_path = sorted((seco_root / "000000").glob("*.tif"))[0]
    preview = read(preview_path).astype(float)
    stored = np.concatenate([read(preview_path.with_suffix("") / f"{b}.tif") for b in RGB_BANDS])
    # A stored step s holds reflectances from s / 255 to (s + 1) / 255, up to a rounded DN.
    assert np.all(preview >= np.clip(np.floor((stored / 255 - 6e-5) / 0.3 * 255), 0, 255))
    assert np.all(preview <= np.clip(((stored + 1) / 255 + 6e-5) / 0.3 * 255, 0, 255))


def test_the_same_seed_writes_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_earth, "MIN_JOBS_PER_WORKER", 1)
    hashes = []
    for name, seed, num_workers in (("a", 3, 1), ("b", 3, 2), ("c", 4, 1)):
        root, options = tmp_path / name, {"seed": seed, "num_workers": num_workers}
        mini_earth.write_seco(root / "seco", num_places=4, num_dates=2, size=24, **options)  # type: ignore[arg-type]
        mini_earth.write_eurosat(root / "eurosat", images_per_class=1, **options)  # type: ignore[arg-type]
        digest = hashlib.sha256()
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
        hashes.append(digest.hexdigest())
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


# Mean and deviation of B2, B8 and B12 on a day in March.
GOLDEN = {
    "AnnualCrop": (0.08891, 0.01773, 0.21242, 0.03488, 0.15532, 0.05582),
    "Forest": (0.09044, 0.02890, 0.26909, 0.10805, 0.16876, 0.06222),
    "HerbaceousVegetation": (0.08473, 0.02481, 0.34237, 0.12332, 0.27927, 0.10064),
    "Industrial": (0.17470, 0.11535, 0.26485, 0.13228, 0.25264, 0.12704),
    "Pasture": (0.22148, 0.06976, 0.33219, 0.09763, 0.18378, 0.06547),
    "PermanentCrop": (0.22846, 0.04967, 0.30752, 0.05427, 0.18262, 0.03425),
    "Residential": (0.09867, 0.05200, 0.28171, 0.09537, 0.15038, 0.06607),
    "SeaLake": (0.09571, 0.02120, 0.10969, 0.10776, 0.04728, 0.06942),
    "Highway": (0.04109, 0.01789, 0.13557, 0.04241, 0.07411, 0.05558),
    "River": (0.05388, 0.02154, 0.17531, 0.06571, 0.08154, 0.08860),
}


@pytest.mark.parametrize("cover", COVER_NAMES)
def test_the_world_is_the_one_whose_results_are_documented(cover: str) -> None:
    """Any change of a painter, a spectrum or the order of the random numbers shows."""
    rng = np.random.default_rng([0, COVER_NAMES.index(cover)])
    place = draw_place(rng, cover, size_px=96)
    weather = draw_weather(rng, place.climate.latitude, datetime(2020, 3, 1, tzinfo=UTC))
    images = observe(rng, place, weather, ("B2", "B8", "B12")).values()
    found = [value for image in images for value in (image.mean(), image.std())]
    assert found == pytest.approx(GOLDEN[cover], rel=1e-3)


def test_dates_of_a_place_share_their_geometry_and_places_do_not() -> None:
    def edges(image: np.ndarray) -> np.ndarray:
        gradient = np.hypot(*np.gradient(image))
        return np.asarray(np.argsort(np.argsort(gradient.ravel())))

    rng = np.random.default_rng(0)
    images = []
    for cover in ("PermanentCrop", "PermanentCrop", "Residential", "Highway", "Pasture"):
        place = draw_place(rng, cover, size_px=96)
        for month in (5, 9):
            weather = draw_weather(rng, 40, datetime(2020, month, 1, tzinfo=UTC))
            images.append(edges(observe(rng, place, weather, ("B4",))["B4"]))
    likeness = np.corrcoef(images)
    same = likeness[np.arange(0, 10, 2), np.arange(1, 10, 2)]
    others = likeness[0::2, 1::2][~np.eye(5, dtype=bool)]
    assert same.min() > 0.35
    assert np.abs(others).max() < 0.15


def seen(surface: Surface, latitude: float, day: int, water_level: float = 0.5) -> np.ndarray:
    """Reflectance of a surface in a moist climate without snow: shape (13,)."""
    weather = Weather(day, 0, water_level, snow=0, sun_elevation=50, haze=0.01, gain=1)
    return np.asarray(reflect([surface], moist_climate(latitude), weather)[0, 0])


def moist_climate(latitude: float) -> Climate:
    climate = draw_climate(np.random.default_rng(0))
    return Climate(latitude, aridity=0.0, soil=climate.soil, water=climate.water)


@pytest.mark.parametrize(("latitude", "summer", "winter"), [(50, 190, 15), (-40, 15, 190)])
@pytest.mark.parametrize("kind", ["crop", "grass", "deciduous"])
def test_plants_are_green_in_the_local_summer(
    kind: str, latitude: float, summer: int, winter: int
) -> None:
    def greenness(day: int) -> float:
        spectrum = seen(Surface(kind, shift_days=-20), latitude, day)
        red, infrared = spectrum[[RED, NEAR_INFRARED]]
        return float((infrared - red) / (infrared + red))

    assert greenness(summer) > greenness(winter) + 0.2


def test_a_shoal_is_below_water_only_above_its_level() -> None:
    shoal, water = Surface("sand", floods_at=0.5), moist_climate(48).water
    assert np.allclose(seen(shoal, 48, 100, water_level=0.6), water)
    assert np.all(seen(shoal, 48, 100, water_level=0.4) > water)


def test_snow_falls_in_northern_winters_only() -> None:
    rng = np.random.default_rng(0)

    def snowy(latitude: float, month: int) -> float:
        date = datetime(2020, month, 15, tzinfo=UTC)
        return float(np.mean([draw_weather(rng, latitude, date).snow > 0 for _ in range(100)]))

    assert snowy(55, 1) > 0.5
    assert snowy(55, 7) == snowy(10, 1) == snowy(-40, 1) == 0


@pytest.mark.parametrize(
    ("latitude", "longitude", "epsg", "tile_start"),
    [(37.7, -122.4, 32610, "10SE"), (-33.9, 151.2, 32756, "56HL"), (48.2, 16.4, 32633, "33UX")],
)
def test_real_towns_get_their_real_tiles(
    latitude: float, longitude: float, epsg: int, tile_start: str
) -> None:
    grid = Grid.at(latitude, longitude)
    assert grid.epsg == epsg
    assert grid.tile.startswith(tile_start)
    assert grid.left % 60 == (grid.top - (latitude < 0) * 10_000_000) % 60 == 0


def test_eurosat_has_ten_class_folders_of_numbered_colour_pictures(eurosat_root: Path) -> None:
    assert {path.name for path in eurosat_root.iterdir()} == set(COVER_NAMES)
    for name in COVER_NAMES:
        files = {path.name for path in (eurosat_root / name).iterdir()}
        assert files == {f"{name}_{number + 1}.jpg" for number in range(40)}
    with Image.open(eurosat_root / "River" / "River_7.jpg") as image:
        assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "JPEG")


def test_pixel_statistics_give_away_at_most_60_percent_of_the_classes(eurosat_root: Path) -> None:
    paths = sorted(eurosat_root.rglob("*.jpg"))
    labels = np.array([COVER_NAMES.index(path.parent.name) for path in paths])
    pixels = np.stack([np.asarray(Image.open(path)).reshape(-1, 3) for path in paths]) / 255
    parts = [pixels.mean(1), pixels.std(1), pixels.min(1), pixels.max(1)]
    statistics = np.concatenate([*parts, *np.percentile(pixels, [25, 50, 75], axis=1)], axis=1)
    assert statistics.shape[1] == 21
    train, test = np.split(np.random.default_rng(0).permutation(len(labels)), [320])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    accuracy = model.fit(statistics[train], labels[train]).score(statistics[test], labels[test])
    assert 0.2 < accuracy <= 0.6


def test_a_raster_of_a_city_has_two_dates_and_what_was_built(tmp_path: Path) -> None:
    mini_earth.write_rasters(tmp_path / "a", num_cities=2, size=200, num_workers=1)
    folder = tmp_path / "a" / "000001"
    dates = []
    for name in ("before", "after"):
        with rasterio.open(folder / f"{name}.tif") as file:
            assert (file.shape, file.res, file.dtypes) == ((200, 200), (10, 10), ("uint16",) * 4)
            assert file.descriptions == ("B2", "B3", "B4", "B8")
            dates.append((file.crs, file.transform, file.tags()["TIFFTAG_DATETIME"]))
    assert dates[0][:2] == dates[1][:2]
    assert dates[0][2] < dates[1][2]
    is_new = read(folder / "changes.tif")[0] == 255
    assert 0.005 < is_new.mean() < 0.5
    before, after = (read(folder / f"{name}.tif").astype(float) for name in ("before", "after"))
    likeness = [np.corrcoef(before[2][at], after[2][at])[0, 1] for at in (is_new, ~is_new)]
    assert likeness[0] < 0.3 < likeness[1]


def test_bigearthnet_patches_are_built_as_the_real_ones(tmp_path: Path) -> None:
    mini_earth.write_bigearthnet(tmp_path, num_patches=10)
    patches = sorted((tmp_path / "BigEarthNet-v1.0").iterdir())
    names = [path.name for path in patches]
    splits = (tmp_path / f"bigearthnet-{split}.txt" for split in ("train", "val", "test"))
    lists = [path.read_text().split() for path in splits]
    assert [len(part) for part in lists] == [6, 2, 2]
    assert sorted(name for part in lists for name in part) == names
    for name in ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv"):
        assert set((tmp_path / name).read_text().split()) <= set(names)
    if not REAL_PATCHES.is_dir():
        pytest.skip("no real patches next to the project")
    assert layout(patches[0]) == layout(sorted(REAL_PATCHES.iterdir())[0])


def layout(patch: Path) -> dict[str, object]:
    """Everything about a patch but its content."""
    found: dict[str, object] = {}
    for path in patch.iterdir():
        key = path.name.removeprefix(patch.name)
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            corners = content["coordinates"]
            found[key] = [(name, type(value)) for name, value in content.items()]
            found["corners"] = list(corners)
            found["size_m"] = (corners["lrx"] - corners["ulx"], corners["uly"] - corners["lry"])
            found["projection"] = content["projection"][:25]
        else:
            with rasterio.open(path) as file:
                found[key] = (file.shape, file.dtypes, file.res, file.count)
    return found


def test_oscd_cities_have_both_dates_in_thirteen_bands_and_agreeing_change_maps(
    tmp_path: Path,
) -> None:
    mini_earth.write_oscd(tmp_path, num_cities=2, size=66)
    cities = [(tmp_path / f"{split}.txt").read_text().strip() for split in ("train", "test")]
    assert cities == ["aguasclaras", "brasilia"]
    spelled = {f"B{number:02d}" for number in range(1, 13)} | {"B8A"}
    for city in cities:
        for period in (1, 2):
            native = {p.stem[-3:]: read(p) for p in (tmp_path / city / f"imgs_{period}").iterdir()}
            rect = {p.stem: read(p) for p in (tmp_path / city / f"imgs_{period}_rect").iterdir()}
            assert set(native) == set(rect) == spelled
            assert native["B04"].dtype == np.uint16
            assert {image.shape for image in rect.values()} == {(1, 66, 66)}
            assert [native[b].shape[1] for b in ("B02", "B8A", "B10")] == [66, 33, 11]
            assert np.array_equal(native["B11"], rect["B11"][:, ::2, ::2])
        picture = np.asarray(Image.open(tmp_path / city / "cm" / "cm.png"))
        raster = read(tmp_path / city / "cm" / f"{city}-cm.tif")[0]
        assert np.array_equal(picture == 255, raster == 2)
        assert set(np.unique(raster)) == {1, 2}
        assert set(np.unique(picture)) == {0, 255}


def test_change_is_construction_and_the_rest_keeps_its_surfaces() -> None:
    rng = np.random.default_rng(0)
    before = draw_place(rng, "Pasture", size_px=120)
    old_labels = before.labels.copy()
    after, is_new = build(before, rng)
    differs = before.labels != after.labels
    per_pixel = differs.reshape(120, 2, 120, 2).sum(axis=(1, 3))
    assert np.array_equal(is_new, per_pixel >= 2)
    built = {COVER_NAMES.index(cover) for cover in ("Industrial", "Residential")}
    assert set(after.cover[differs]) <= built
    assert 0.005 < is_new.mean() < 0.3
    assert np.array_equal(before.labels, old_labels)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--dataset seco --num_places 0", "num_places must be above 0"),
        ("--dataset seco --num_places 1 --size 11", "size must be at least 12"),
        ("--dataset seco --num_places 1 --bands B10", "unknown band B10"),
        ("--dataset eurosat --num_places 15", "ten classes"),
        ("--dataset eurosat --num_places 10 --previews", "--previews has no effect"),
        ("--dataset oscd --num_places 25", "2 to 24"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    flags: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        mini_earth.main([*flags.split(), "--save_path", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_a_folder_with_content_is_left_alone_by_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    flags = ["--dataset", "eurosat", "--num_places", "10", "--save_path", str(tmp_path)]
    assert exit_code(monkeypatch, "datasets/mini_earth.py", *flags) == 2
    assert f"error: {tmp_path} is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            mini_earth.write_eurosat(
                tmp_path, images_per_class=1, size=64, all_bands=True, num_workers=1
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_script_divides_the_images_of_eurosat_among_its_classes(tmp_path: Path) -> None:
    flags = ["--dataset", "eurosat", "--num_places", "20", "--size", "12"]
    mini_earth.main([*flags, "--save_path", str(tmp_path)])
    assert [len(list((tmp_path / name).iterdir())) for name in COVER_NAMES] == [2] * 10
