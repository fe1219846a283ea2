"""The 13 bands of EuroSAT: order, stretch, spatial lists, and files that are not what they seem."""

import shutil
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import rasterio
from PIL import Image

from datasets import mini_earth
from datasets.eurosat_dataset import BANDS_DATA, RGB_DATA, EurosatDataset
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform

ARCHIVE_ROOT = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
# As in the files of the archive: B8A is the last of the 13.
FILE_ORDER = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A"]


def write_tif(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape) as file:
        file.write(pixels)
    return path


def ramp(size: int = 4) -> np.ndarray:
    """13 bands, each of one value: 100, 200 and so on."""
    values = np.arange(100, 1400, 100, dtype=np.uint16)
    return np.tile(values[:, None, None], (1, size, size))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images."""
    for name in ("Forest", "River"):
        for number in (1, 2):
            write_tif(tmp_path / "tif" / name / f"{name}_{number}.tif", ramp())
    return tmp_path / "tif"


def read(root: Path, bands: tuple[str, ...] = ("B4", "B3", "B2"), norm: str = "none") -> np.ndarray:
    dataset = EurosatDataset(root)
    transform = input_transform(InputSpec.of_pictures(bands), dataset.spec, norm)
    images: np.ndarray = dataset.read_images(transform, 2).numpy()
    return images


@pytest.mark.difference("eurosat-bands")
def test_channels_are_found_by_the_names_of_the_bands(root: Path) -> None:
    bands = ("B8A", "B4", "B1", "B9", "B12")
    images = read(root, bands)
    assert images.shape == (4, 5, 4, 4)
    assert images.dtype == np.uint8
    for channel, band in enumerate(bands):
        dn = 100 * (FILE_ORDER.index(band) + 1)
        assert np.unique(images[:, channel]).tolist() == [dn * 255 // 10_000]


def test_own_stretch_is_two_deviations_around_the_published_means(tmp_path: Path) -> None:
    pixels = np.zeros((13, 1, 5), np.uint16)
    pixels[:, 0] = [0, 500, 1118, 2100, 3000]
    for name in ("Forest", "River"):
        write_tif(tmp_path / name / f"{name}_1.tif", pixels)
    blue, red, near_infrared = read(tmp_path, ("B2", "B4", "B8A"), "paper")[0, :, 0].tolist()
    # 255 * (x - (mean - 2 std)) / (4 std), where mean - 2 std is at least 0.
    assert blue == [0, 9, 127, 255, 255]  # 452.23 .. 1784.26
    assert red == [0, 59, 133, 250, 255]  # 0 .. 2135.13, as 947.63 - 1187.50 < 0
    assert near_infrared == [0, 19, 51, 101, 148]  # 130.97 .. 5057.31
    assert BANDS_DATA.bands == tuple(FILE_ORDER)
    assert BANDS_DATA.low[9] == pytest.approx(12.11327804 - 2 * 4.77584468)
    assert BANDS_DATA.high[10] == pytest.approx(1819.01027855 + 2 * 1002.58768311)


def test_the_archive_is_read_from_its_zip_with_lists_that_name_jpegs(
    root: Path, tmp_path: Path
) -> None:
    with ZipFile(tmp_path / "EuroSATallBands.zip", "w") as archive:
        for path in sorted(root.glob("*/*.tif")):
            archive.write(path, f"{ARCHIVE_ROOT}/{path.relative_to(root)}")
    lists = {"train": "Forest_2.jpg\nRiver_1.jpg", "val": "River_2.jpg", "test": "Forest_1.jpg"}
    for split, lines in lists.items():
        (tmp_path / f"eurosat-spatial-{split}.txt").write_text(lines)
    dataset = EurosatDataset(tmp_path / "EuroSATallBands.zip")
    splits = dataset.splits(0, "spatial")
    found = {split: [dataset.names[row] for row in rows] for split, rows in splits.items()}
    assert found == {
        "train": ["Forest/Forest_2.tif", "River/River_1.tif"],
        "val": ["River/River_2.tif"],
        "test": ["Forest/Forest_1.tif"],
    }
    assert np.array_equal(read(tmp_path / "EuroSATallBands.zip"), read(root))


def test_each_kind_of_split_has_its_own_lists(root: Path) -> None:
    splits, stems = ("train", "val", "test"), ("Forest_1", "River_1", "River_2")
    for prefix, names in (("eurosat-", stems), ("eurosat-spatial-", reversed(stems))):
        with pytest.raises(UserError, match=r"needs eurosat-spatial-train\.txt .*download\.py"):
            EurosatDataset(root).splits(0, "spatial")
        for split, name in zip(splits, names, strict=True):
            (root / f"{prefix}{split}.txt").write_text(f"{name}.jpg")
    dataset = EurosatDataset(root)
    assert [rows.item() for rows in dataset.splits(0).values()] == [0, 2, 3]
    assert [rows.item() for rows in dataset.splits(0, "spatial").values()] == [3, 2, 0]


NOT_13 = r"is not a readable picture of 13 bands of uint16 .* at most 1024 px"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ramp()[:12], NOT_13),
        (ramp().astype(np.uint8), NOT_13),
        (np.zeros((13, 1, 1025), np.uint16), NOT_13),
        (ramp(5), r"\(5, 5\) px, Forest/Forest_1\.tif \(4, 4\)"),
        (b"", NOT_13),
        (b"<VRTDataset rasterXSize='4' rasterYSize='4'></VRTDataset>", NOT_13),
    ],
    ids=["bands", "dtype", "huge", "size", "empty", "other"],
)
def test_a_file_that_breaks_the_contract_is_named(
    content: np.ndarray | bytes, message: str, root: Path
) -> None:
    path = root / "River" / "River_2.tif"
    path.write_bytes(content) if isinstance(content, bytes) else write_tif(path, content)
    with pytest.raises(UserError, match=rf"River/River_2\.tif in .*{message}") as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_thirteen_bands_in_another_unit_are_refused(root: Path) -> None:
    for path in root.glob("*/*.tif"):
        write_tif(path, (ramp() * 0.1).astype(np.uint16))
    with pytest.raises(UserError, match=r"tif holds .*8-bit pictures"):
        read(root)


def test_two_archives_or_two_kinds_in_one_folder_are_refused(root: Path, tmp_path: Path) -> None:
    for archive in ("EuroSAT_RGB", "EuroSAT_MS"):
        shutil.copytree(root, tmp_path / "both" / archive)
    with pytest.raises(UserError, match=r"has EuroSAT_RGB/ and EuroSAT_MS/ class folders .*: name"):
        EurosatDataset(tmp_path / "both")
    Image.new("RGB", (4, 4)).save(root / "River" / "River_0.jpg")
    with pytest.raises(
        UserError, match=r"River/River_0\.jpg .* not a readable picture of 13 bands"
    ):
        read(root)


def test_an_encoder_of_twelve_bands_is_refused_on_rgb() -> None:
    bands = tuple(band for band in FILE_ORDER if band != "B10")
    spec = InputSpec.of_pictures(bands)
    with pytest.raises(UserError, match=r"trained on B1 .*, but EuroSAT in RGB has no B1 .*B8A"):
        input_transform(spec, RGB_DATA, "auto")
    assert input_transform(spec, BANDS_DATA, "auto").bands == bands


def test_mini_earth_has_the_bands_of_the_archive_in_its_order(bands: Path) -> None:
    means = []
    for path in sorted(bands.glob("*/*.tif")):
        with rasterio.open(path) as file:
            assert (file.dtypes, file.res) == (("uint16",) * 13, (10, 10))
            assert file.crs.is_projected
            image = file.read()
        means.append(image.mean((1, 2)))
        # Of 10 m bands all pixels differ; of others blocks of 2 x 2 or 6 x 6 are equal.
        blocks = [6, 1, 1, 1, 2, 2, 2, 1, 6, 6, 2, 2, 2]
        for band, block in zip(image, blocks, strict=True):
            assert len(np.unique(band[:block, :block])) == 1
            assert len(np.unique(band[:12, :12])) > (12 // block) ** 2 / 2
    assert len(means) == 50
    assert np.argmin(np.mean(means, 0)) == FILE_ORDER.index("B10")  # which the air absorbs
    forests = np.mean(means[5:10], 0)  # leaves are bright in the near infrared only
    assert forests[FILE_ORDER.index("B8A")] > 1.5 * forests[FILE_ORDER.index("B12")]
    assert forests[FILE_ORDER.index("B8A")] == pytest.approx(forests[7], rel=0.05)


def test_mini_earth_shows_the_same_places_in_both_archives(tmp_path: Path) -> None:
    for name in ("rgb", "bands"):
        mini_earth.write_eurosat(
            tmp_path / name, images_per_class=1, all_bands=name == "bands", num_workers=1
        )
    rgb, every = EurosatDataset(tmp_path / "rgb"), EurosatDataset(tmp_path / "bands")
    assert [name[:-4] for name in rgb.names] == [name[:-4] for name in every.names]
    for number in range(len(rgb)):
        jpeg, dn = np.asarray(rgb[number][0]).astype(float), every[number][0][[3, 2, 1]].numpy()
        picture = np.clip(dn / 10_000 / 0.275 * 255, 0, 255).astype(np.uint8)
        compressed = BytesIO()
        Image.fromarray(picture.transpose(1, 2, 0)).save(compressed, "JPEG", quality=90)
        again = np.asarray(Image.open(compressed))
        assert np.abs(again - jpeg).mean() < 1  # rounded digital numbers; other noise: above 3


def test_all_bands_mean_nothing_for_other_data_sets(tmp_path: Path) -> None:
    flags = ["--dataset", "oscd", "--num_places", "2", "--save_path", str(tmp_path / "oscd")]
    with pytest.raises(UserError, match="--all_bands has no effect with --dataset oscd"):
        mini_earth.main([*flags, "--all_bands"])
