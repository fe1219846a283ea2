"""The miniature Earth: true layouts, seasons, and labels that need spatial structure."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision.models import resnet18

from datasets import mini_earth
from datasets.bands import ALL_BANDS, RESOLUTION_M, RGB_BANDS
from datasets.miniature.canvas import noise
from datasets.miniature.covers import COVER_NAMES, draw_place
from datasets.miniature.files import Grid
from datasets.miniature.oscd import build
from datasets.miniature.render import draw_weather, observe
from datasets.miniature.surfaces import SENSOR_BANDS, Climate, Surface, draw_climate, reflect
from tests.references.script import exit_code
from utils.errors import UserError

ROOT = Path(__file__).parents[3]
REAL_PATCHES = ROOT.parent / "shared" / "data" / "bigearthnet_tiny"
RED, NEAR_INFRARED = SENSOR_BANDS.index("B4"), SENSOR_BANDS.index("B8")


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        image: np.ndarray = file.read()
    return image


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(str(path.relative_to(root)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def seco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seco")
    mini_earth.write_seco(root, num_places=3, num_dates=4, size=50, previews=True)
    return root


@pytest.fixture(scope="module")
def eurosat_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eurosat")
    mini_earth.write_eurosat(root, images_per_class=40, num_workers=1)
    return root


def test_a_seco_scene_has_twelve_single_band_files_and_its_properties(seco_root: Path) -> None:
    assert sorted(path.name for path in seco_root.iterdir()) == ["000000", "000001", "000002"]
    scenes = sorted(path for path in (seco_root / "000001").iterdir() if path.is_dir())
    assert len(scenes) == 4
    for scene in scenes:
        assert {path.stem for path in scene.glob("*.tif")} == set(ALL_BANDS)
        properties = json.loads((scene / "metadata.json").read_text())
        start = datetime.fromtimestamp(properties["system:time_start"] / 1000, UTC)
        assert scene.name.startswith(f"{start:%Y%m%dT%H%M%S}_")
        assert scene.name.endswith("_T" + properties["MGRS_TILE"])
        assert properties["CLOUDY_PIXEL_PERCENTAGE"] < 10


def test_bands_have_the_sides_of_their_resolution_and_one_corner(tmp_path: Path) -> None:
    mini_earth.write_seco(tmp_path, num_places=1, num_dates=1, size=264)
    sides = {10: 264, 20: 132, 60: 44}
    corners = set()
    for path in tmp_path.rglob("*.tif"):
        resolution_m = RESOLUTION_M[path.stem]
        with rasterio.open(path) as file:
            assert file.shape == (sides[resolution_m],) * 2
            assert file.dtypes == ("uint8",)
            assert file.res == (resolution_m, resolution_m)
            assert file.crs.is_projected
            corners.add((file.bounds.left, file.bounds.top))
    assert len(corners) == 1


def test_a_side_that_60_m_does_not_divide_is_rounded_up(seco_root: Path) -> None:
    scene = next(path for path in (seco_root / "000000").iterdir() if path.is_dir())
    assert read(scene / "B2.tif").shape == (1, 50, 50)
    assert read(scene / "B5.tif").shape == (1, 25, 25)
    assert read(scene / "B1.tif").shape == (1, 9, 9)


def test_a_preview_shows_the_stored_bands_brightened_to_30_percent(seco_root: Path) -> None:
    preview_path = sorted((seco_root / "000000").glob("*.tif"))[0]
    preview = read(preview_path).astype(float)
    stored = np.concatenate([read(preview_path.with_suffix("") / f"{b}.tif") for b in RGB_BANDS])
    # A stored step s holds reflectances from s / 255 to (s + 1) / 255, up to a rounded DN.
    assert np.all(preview >= np.clip(np.floor((stored / 255 - 6e-5) / 0.3 * 255), 0, 255))
    assert np.all(preview <= np.clip(((stored + 1) / 255 + 6e-5) / 0.3 * 255, 0, 255))


def test_the_same_seed_writes_the_same_bytes_whatever_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_earth, "MIN_JOBS_PER_WORKER", 1)
    hashes = []
    for name, seed, num_workers in (("a", 3, 1), ("b", 3, 2), ("c", 4, 1)):
        root = tmp_path / name
        mini_earth.write_seco(
            root / "seco", num_places=4, num_dates=2, size=24, seed=seed, num_workers=num_workers
        )
        mini_earth.write_eurosat(
            root / "eurosat", images_per_class=1, seed=seed, num_workers=num_workers
        )
        hashes.append(tree_hash(root))
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


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


@pytest.mark.parametrize(("latitude", "summer", "winter"), [(50, 190, 15), (-40, 15, 190)])
@pytest.mark.parametrize("kind", ["crop", "grass", "deciduous"])
def test_plants_are_green_in_the_local_summer(
    kind: str, latitude: float, summer: float, winter: float
) -> None:
    climate = moist_climate(latitude)

    def greenness(day: float) -> float:
        seen = reflect_one(Surface(kind, shift_days=-20), climate, day)
        return float((seen[NEAR_INFRARED] - seen[RED]) / (seen[NEAR_INFRARED] + seen[RED]))

    assert greenness(summer) > greenness(winter) + 0.2


def test_a_late_field_is_bare_when_the_early_one_stands_green() -> None:
    climate = moist_climate(48)
    early = reflect_one(Surface("crop", shift_days=40), climate, 110)
    late = reflect_one(Surface("crop", shift_days=-60), climate, 110)
    assert early[NEAR_INFRARED] / early[RED] > 2 * late[NEAR_INFRARED] / late[RED]


def test_a_shoal_lies_below_water_only_above_its_level() -> None:
    climate = moist_climate(48)
    shoal = Surface("sand", floods_at=0.5)
    assert np.allclose(reflect_one(shoal, climate, 100, water_level=0.6), climate.water)
    assert np.all(reflect_one(shoal, climate, 100, water_level=0.4) > climate.water)


def test_snow_lies_in_northern_winters_and_nowhere_else() -> None:
    rng = np.random.default_rng(0)

    def snowy(latitude: float, month: int) -> float:
        date = datetime(2020, month, 15, tzinfo=UTC)
        return float(np.mean([draw_weather(rng, latitude, date).snow > 0 for _ in range(100)]))

    assert snowy(55, 1) > 0.5
    assert snowy(55, 7) == snowy(10, 1) == 0
    assert snowy(-40, 1) == 0


def test_noise_has_unit_deviation_and_the_asked_scale() -> None:
    rng = np.random.default_rng(0)
    fields = [noise(rng, 240, 12) for _ in range(10)]
    assert np.std(fields) == pytest.approx(1, abs=0.1)
    near = np.mean([np.mean(field[:, 2:] * field[:, :-2]) for field in fields])
    far = np.mean([np.mean(field[:, 48:] * field[:, :-48]) for field in fields])
    assert near > 0.9
    assert abs(far) < 0.1


def test_every_cover_fills_most_of_its_place_or_crosses_it() -> None:
    rng = np.random.default_rng(0)
    for number, cover in enumerate(COVER_NAMES):
        shares = [
            np.mean(draw_place(rng, cover, size_px=60).canvas.cover == number) for _ in range(3)
        ]
        assert min(shares) > (0.02 if cover in ("Highway", "River") else 0.6)


@pytest.mark.parametrize(
    ("latitude", "longitude", "epsg", "tile_start"),
    [(37.7, -122.4, 32610, "10SE"), (-33.9, 151.2, 32756, "56HL"), (48.2, 16.4, 32633, "33UX")],
)
def test_real_towns_get_their_real_tiles(
    latitude: float, longitude: float, epsg: int, tile_start: str
) -> None:
    grid = Grid.at(latitude, longitude)
    assert grid.crs.to_epsg() == epsg
    assert grid.tile(latitude).startswith(tile_start)


def test_eurosat_has_ten_class_folders_of_numbered_colour_pictures(eurosat_root: Path) -> None:
    assert {path.name for path in eurosat_root.iterdir()} == set(COVER_NAMES)
    for name in COVER_NAMES:
        files = {path.name for path in (eurosat_root / name).iterdir()}
        assert files == {f"{name}_{number + 1}.jpg" for number in range(40)}
    with Image.open(eurosat_root / "River" / "River_7.jpg") as image:
        assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "JPEG")


def test_pixel_statistics_tell_at_most_60_percent_of_the_classes(eurosat_root: Path) -> None:
    pictures, labels = read_eurosat(eurosat_root)
    pixels = pictures.reshape(len(pictures), -1, 3) / 255
    parts = [pixels.mean(1), pixels.std(1), pixels.min(1), pixels.max(1)]
    parts += list(np.percentile(pixels, [25, 50, 75], axis=1))
    statistics = np.concatenate(parts, axis=1)
    assert statistics.shape[1] == 21
    train, test = split(len(labels))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    accuracy = model.fit(statistics[train], labels[train]).score(statistics[test], labels[test])
    assert 0.2 < accuracy <= 0.6


def test_bigearthnet_patches_are_built_as_the_real_ones(tmp_path: Path) -> None:
    mini_earth.write_bigearthnet(tmp_path, num_patches=10)
    patches = sorted((tmp_path / "BigEarthNet-v1.0").iterdir())
    assert len(patches) == 10
    lists = [
        (tmp_path / f"bigearthnet-{split}.txt").read_text().split()
        for split in ("train", "val", "test")
    ]
    assert [len(names) for names in lists] == [6, 2, 2]
    assert sorted(name for names in lists for name in names) == [path.name for path in patches]
    for name in ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv"):
        assert set((tmp_path / name).read_text().split()) <= {path.name for path in patches}
    if not REAL_PATCHES.is_dir():
        pytest.skip("no real patches beside the project")
    real = sorted(REAL_PATCHES.iterdir())[0]
    assert layout(patches[0]) == layout(real)


def layout(patch: Path) -> dict[str, object]:
    """Everything about a patch but its content."""
    found: dict[str, object] = {}
    for path in patch.iterdir():
        key = path.name.removeprefix(patch.name)
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            found[key] = [(name, type(value)) for name, value in content.items()]
            found["corners"] = list(content["coordinates"])
            corners = content["coordinates"]
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
    before = draw_place(rng, "Pasture", size_px=120).canvas
    old_labels = before.labels.copy()
    after, is_new = build(before, rng)
    differs = before.labels != after.labels
    per_pixel = differs.reshape(120, 2, 120, 2).sum(axis=(1, 3))
    assert np.array_equal(is_new, per_pixel >= 2)
    assert set(after.cover[differs]) <= {
        COVER_NAMES.index(c) for c in ("Industrial", "Residential")
    }
    assert 0.005 < is_new.mean() < 0.3
    assert np.array_equal(before.labels, old_labels)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataset", "seco", "--num_places", "0"], "num_places must be at least 1"),
        (["--dataset", "seco", "--num_places", "1", "--num_dates", "0"], "num_dates"),
        (["--dataset", "seco", "--num_places", "1", "--size", "11"], "at least 12 pixels"),
        (["--dataset", "seco", "--num_places", "1", "--bands", "B10"], "unknown band B10"),
        (["--dataset", "eurosat", "--num_places", "15"], "ten classes"),
        (["--dataset", "eurosat", "--num_places", "10", "--previews"], "--previews means nothing"),
        (["--dataset", "bigearthnet", "--num_places", "-1"], "num_patches"),
        (["--dataset", "oscd", "--num_places", "25"], "2 to 24"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    flags: list[str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        mini_earth.main([*flags, "--save_path", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_a_folder_with_content_is_left_alone_by_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    flags = ["--dataset", "eurosat", "--num_places", "10", "--save_path", str(tmp_path)]
    assert exit_code(monkeypatch, "datasets/mini_earth.py", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "is not an empty folder" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_supervised_resnet_tells_at_least_95_percent_of_the_classes(tmp_path: Path) -> None:
    mini_earth.write_eurosat(tmp_path, images_per_class=500)
    pictures, labels = read_eurosat(tmp_path)
    train, test = split(len(labels))
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    model = train_resnet(images[train], torch.from_numpy(labels[train]))
    model.eval()
    with torch.inference_mode():
        found = torch.cat([model(as_input(part)).argmax(1) for part in images[test].split(250)])
    assert (found.numpy() == labels[test]).mean() >= 0.95


def moist_climate(latitude: float) -> Climate:
    drawn = draw_climate(np.random.default_rng(0))
    return Climate(latitude, aridity=0.0, soil=drawn.soil, water=drawn.water)


def reflect_one(
    surface: Surface, climate: Climate, day: float, water_level: float = 0.5
) -> np.ndarray:
    seen = reflect(
        [surface], climate, day_of_year=day, warmth=0, water_level=water_level, snow_depth=0
    )
    return np.asarray(seen[0, 0])


def read_eurosat(root: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(root.rglob("*.jpg"))
    pictures = np.stack([np.asarray(Image.open(path)) for path in paths])
    return pictures, np.array([COVER_NAMES.index(path.parent.name) for path in paths])


def split(count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(count)
    return order[: count * 4 // 5], order[count * 4 // 5 :]


def as_input(pictures: Tensor) -> Tensor:
    return ((pictures.float() / 255 - 0.45) / 0.15).contiguous(memory_format=torch.channels_last)


def train_resnet(pictures: Tensor, labels: Tensor, epochs: int = 25, batch: int = 32) -> nn.Module:
    """Train with quarter turns, flips and changes of light under a one-cycle schedule."""
    model = resnet18(num_classes=len(COVER_NAMES)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = len(pictures) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, epochs=epochs, steps_per_epoch=steps, pct_start=0.2
    )
    for _ in range(epochs):
        order = torch.randperm(len(pictures))[: steps * batch].view(steps, batch)
        for chosen in order:
            turns = torch.randint(8, (batch,)).tolist()
            views = [
                torch.rot90(picture if turn < 4 else picture.flip(2), turn % 4, (1, 2))
                for picture, turn in zip(pictures[chosen], turns, strict=True)
            ]
            contrast = 1 + 0.3 * torch.randn(batch, 1, 1, 1)
            light = 0.3 * torch.randn(batch, 3, 1, 1)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(as_input(torch.stack(views)) * contrast + light)
            loss = nn.functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model
