"""``main_embed.py`` from flags to files, in process, on every kind of imagery."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.warp
import torch
from PIL import Image

import main_embed
from datasets.imagery.rasters import RasterWindows
from datasets.mini_earth import write_eurosat
from datasets.store.open import open_patches
from models import embedding
from models.backbones import load_encoder
from tests.references.raster_files import coded, write_raster
from tests.references.seco_files import zip_folder
from utils.errors import UserError
from utils.input_spec import SECO_SPEC

RGB = ["--bands", "B4", "B3", "B2"]
FLAGS = ["--backbone_type", "random", "--base_encoder", "resnet18_slim", "--gpus", "0"]
FLAGS += ["--precision", "32-true", "--num_workers", "2"]


def embed(data_dir: Path, save_path: Path, *more: str) -> np.ndarray:
    """Run the script, and return the embeddings of its file."""
    flags = ["--data_dir", str(data_dir), "--save_path", str(save_path), *FLAGS, *more]
    main_embed.main(flags)
    return vectors(save_path)


def vectors(path: Path) -> np.ndarray:
    return np.stack(pq.read_table(path)["embedding"].to_numpy())


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raster(tmp_path_factory.mktemp("raster") / "a.tif", coded(160, 224))


def test_embeddings_are_the_features_of_the_windows(raster: Path, tmp_path: Path) -> None:
    found = embed(raster, tmp_path / "e.parquet", *RGB, "--patch_size", "32")
    torch.manual_seed(42)
    encoder, spec = load_encoder("random", "resnet18_slim", None, ["B4", "B3", "B2"])
    assert spec == SECO_SPEC
    dn = np.minimum(coded(160, 224)[::-1] * 255.0 // 10_000, 255)  # stored as in SeCo
    low, high = (np.array(each)[:, None, None] for each in (spec.low, spec.high))
    picture = np.clip((np.floor(dn) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    ids = pq.read_table(tmp_path / "e.parquet")["id"].to_pylist()
    assert len(ids) == 5 * 7
    cells = [tuple(map(int, name.split("/")[1:])) for name in ids]
    windows = [picture[:, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32] for y, x in cells]
    with torch.inference_mode():
        expected = encoder(spec.normalize(torch.from_numpy(np.stack(windows)))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_seco_folders_zips_and_stores_are_the_stored_patches(
    seco_root: Path, tmp_path: Path
) -> None:
    archive = zip_folder(seco_root, tmp_path / "seco.zip")
    of_folder = embed(seco_root, tmp_path / "folder.parquet", *RGB)
    of_zip = embed(archive, tmp_path / "zip.parquet", *RGB)
    assert len(of_folder) == 24
    assert (of_folder == of_zip).all()
    table = pq.read_table(tmp_path / "folder.parquet")
    source = open_patches(seco_root, ("B4", "B3", "B2"))
    assert table["id"].to_pylist() == [source.name(patch) for patch in range(24)]
    assert all(day is not None for day in table["datetime"].to_pylist())
    with rasterio.open(seco_root / source.name(0) / "B4.tif") as file:
        west, south, east, north = rasterio.warp.transform_bounds(
            file.crs, "EPSG:4326", *file.bounds
        )
    box = table["bbox"][0].as_py()
    found = [box[name] for name in ("xmin", "ymin", "xmax", "ymax")]
    np.testing.assert_allclose(found, [west, south, east, north], atol=1e-4)


def test_eurosat_bigearthnet_oscd_and_pictures(
    eurosat_root: Path, bigearthnet_root: Path, oscd_root: Path, tmp_path: Path
) -> None:
    assert embed(eurosat_root, tmp_path / "eurosat.parquet").shape == (50, 128)
    write_eurosat(tmp_path / "ms", images_per_class=2, size=32, all_bands=True, num_workers=1)
    assert embed(tmp_path / "ms", tmp_path / "ms.parquet", *RGB).shape == (20, 128)
    assert embed(bigearthnet_root, tmp_path / "ben.parquet", *RGB).shape == (41, 128)  # listed ones
    cities = embed(oscd_root, tmp_path / "oscd.parquet", *RGB, "--patch_size", "32")
    assert cities.shape == (4 * 2 * 4, 128)
    for name, is_placed in {"eurosat": False, "ms": True, "ben": True, "oscd": True}.items():
        boxes = pq.read_table(tmp_path / f"{name}.parquet")["bbox"]
        assert (boxes.null_count == 0) == is_placed, name
    days = pq.read_table(tmp_path / "ben.parquet")["datetime"]
    assert days.null_count == 0


def test_pictures_of_several_sizes_are_brought_to_one(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(40, 40), (60, 50)]):
        Image.new("RGB", size, (10, 20, 200)).save(folder / f"{number}.png")
    flags = ["--patch_size", "32"]
    with pytest.warns(UserWarning, match="pictures differ in size"):
        assert embed(folder, tmp_path / "e.parquet", *flags).shape == (2, 128)
    # A file of the data is not its own neighbour.
    flags += ["--data_dir", str(folder), "--save_path", str(tmp_path / "e.parquet"), *FLAGS]
    with pytest.warns(UserWarning, match="pictures differ in size"):
        found = main_embed.main([*flags, "--neighbours", str(folder / "1.png")])
    assert [each.patch for each in found] == ["0.png"]


def test_an_interrupted_embedding_resumes_and_ends_the_same(
    raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.imagery.rasters._PATCHES_PER_BLOCK", 4)
    flags = [*RGB, "--patch_size", "32"]
    whole = embed(raster, tmp_path / "whole.parquet", *flags)
    path, real = tmp_path / "e.parquet", embedding.Parts.write

    def killed(self: embedding.Parts, block: int, *rest: Any) -> None:
        if block == 3:
            raise KeyboardInterrupt
        real(self, block, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(embedding.Parts, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(raster, path, *flags)
    assert not path.exists()
    with pytest.raises(UserError, match="beginning of an embedding of another imagery"):
        embed(raster, path, *flags, "--stride", "16")
    read: list[int] = []
    whole_block = RasterWindows.read

    def counted(self: RasterWindows, block: int) -> Any:
        read.append(block)
        return whole_block(self, block)

    monkeypatch.setattr(RasterWindows, "read", counted)
    assert (embed(raster, path, *flags) == whole).all()
    assert 0 not in read
    assert 3 in read
    assert not Path(f"{path}.parts").exists()
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("e.")] == [path.name]


def test_processes_share_the_blocks(
    raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.imagery.rasters._PATCHES_PER_BLOCK", 4)
    flags = [*RGB, "--patch_size", "32"]
    whole = embed(raster, tmp_path / "whole.parquet", *flags)
    path = tmp_path / "e.parquet"
    line = ["--data_dir", str(raster), "--save_path", str(path), *FLAGS, *flags]
    names = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}
    for rank in ("1", "0"):  # the first process waits for the others, and writes
        for name, value in (names | {"RANK": rank, "LOCAL_RANK": rank}).items():
            monkeypatch.setenv(name, value)
        main_embed.main(line)
        assert path.exists() == (rank == "0")
    assert (vectors(path) == whole).all()


def test_neighbours_of_a_row_a_place_and_a_picture(
    raster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "e.parquet"
    flags = ["--data_dir", str(raster), "--save_path", str(path), *FLAGS, *RGB]
    flags += ["--patch_size", "32", "--num_neighbours", "5"]
    found = main_embed.main([*flags, "--neighbours", "9"])
    assert len(found) == 5
    assert 9 not in [each.row for each in found]  # it is its own nearest one
    lines = capsys.readouterr().out.splitlines()
    assert "query: row 9, a.tif/1/2" in lines
    assert any(f"{found[0].latitude:.4f}" in line for line in lines)
    with Image.open(tmp_path / "e_neighbours.png") as picture:
        assert min(picture.size) > 100
    with_bounds = pq.read_table(path)["bbox"][9].as_py()
    place = ",".join(
        str((with_bounds[f"{axis}min"] + with_bounds[f"{axis}max"]) / 2) for axis in "yx"
    )
    assert main_embed.main([*flags, "--neighbours", place]) == found
    assert "complete" in capsys.readouterr().err
    Image.new("RGB", (50, 70), (90, 80, 70)).save(tmp_path / "query.png")
    assert len(main_embed.main([*flags, "--neighbours", str(tmp_path / "query.png")])) == 5
    refused = {"0,0": "no patch of", "-33.9,151.2": "no patch of", "²": "neither a readable"}
    for query, message in (refused | {"gone.jpg": "neither a readable picture"}).items():
        with pytest.raises(UserError, match=message):
            main_embed.main([*flags, "--neighbours", query])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("48.9,2.3", "is a place, but the imagery has no positions on Earth"),
        ("91,0", "91,0 is not LATITUDE,LONGITUDE"),
        ("50", "--neighbours 50 is beyond the last row, 49"),
        ("gone.jpg", "neither a readable picture"),
    ],
)
def test_queries_without_an_answer_are_refused_before_the_embedding(
    eurosat_root: Path, tmp_path: Path, query: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        embed(eurosat_root, tmp_path / "e.parquet", "--neighbours", query)
    assert not list(tmp_path.iterdir())


def test_the_raster_of_an_embedding_and_16_bit_floats(raster: Path, tmp_path: Path) -> None:
    line = ["--data_dir", str(raster), *FLAGS, *RGB, "--patch_size", "32", "--stride", "16"]
    main_embed.main([*line, "--save_path", str(tmp_path / "e.tif"), "--components", "3"])
    with rasterio.open(tmp_path / "e.tif") as file:
        assert (file.count, file.shape) == (3, (9, 13))
        assert file.bounds.left == 500_000 + 80  # half of 32 - 16 px
    main_embed.main([*line, "--save_path", str(tmp_path / "e.npz"), "--dtype", "float16"])
    with np.load(tmp_path / "e.npz") as file:
        assert (file["embedding"].dtype, len(file["embedding"])) == (np.float16, 9 * 13)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--save_path", "e.csv"], "must end in .parquet, .npz, .tif"),
        (["--patch_size", "16"], "--patch_size must be 32 or more, not 16"),
        (["--stride", "0"], "--stride must be above 0"),
        (["--scale", "nan"], "--scale must be above 0"),
        (["--max_nodata", "2"], "--max_nodata must be in 0..1"),
        (["--components", "3"], "--components is for a .tif"),
        (["--save_path", "e.npz", "--neighbours", "1"], "--neighbours needs a .parquet"),
        (["--data_dir", "gone.tif"], "gone.tif does not exist"),
        (["--save_path", "/proc/e.parquet"], "--save_path /proc/e.parquet cannot be written"),
    ],
)
def test_flags_that_cannot_work_are_refused(
    raster: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    line = ["--data_dir", str(raster), "--save_path", str(tmp_path / "e.parquet"), *FLAGS, *RGB]
    with pytest.raises(UserError, match=message):
        main_embed.main([*line, *flags])


def test_a_picture_is_found_although_the_first_block_holds_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.imagery.rasters._PATCHES_PER_BLOCK", 1)
    pixels = coded(128, 128)
    pixels[:, :64, :64] = 0
    raster = write_raster(tmp_path / "a.tif", pixels)
    Image.new("RGB", (50, 70), (90, 80, 70)).save(tmp_path / "query.png")
    line = ["--data_dir", str(raster), "--save_path", str(tmp_path / "e.parquet"), *FLAGS, *RGB]
    assert len(main_embed.main([*line, "--neighbours", str(tmp_path / "query.png")])) == 3


@pytest.mark.parametrize("suffix", [".npz", ".tif"])
def test_a_file_of_another_embedding_is_never_taken_for_this_one(
    raster: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"e{suffix}"
    line = ["--data_dir", str(raster), "--save_path", str(path), *FLAGS, *RGB]
    main_embed.main(line)
    before = path.read_bytes()
    main_embed.main(line)  # complete
    with pytest.raises(UserError, match="is an embedding of another encoder"):
        main_embed.main([*line, "--seed", "1"])
    assert path.read_bytes() == before
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"is damaged, or not a file of main_embed\.py"):
        main_embed.main(line)


def test_processes_that_nothing_starts_and_too_many_components_are_refused(
    raster: Path, tmp_path: Path
) -> None:
    line = ["--data_dir", str(raster), "--save_path", str(tmp_path / "e.tif"), *FLAGS, *RGB]
    with pytest.raises(UserError, match="2 processes share an embedding only if torchrun or srun"):
        main_embed.main([*line, "--num_processes", "2"])
    with pytest.raises(UserError, match="--components 129: the encoder has 128 dimensions"):
        main_embed.main([*line, "--components", "129"])


def test_what_does_not_fit_is_refused_and_writes_nothing(
    raster: Path, eurosat_root: Path, tmp_path: Path
) -> None:
    empty = write_raster(tmp_path / "empty.tif", np.zeros((3, 64, 64), np.uint16))
    with pytest.raises(UserError, match="has no patch that holds enough data"):
        embed(empty, tmp_path / "empty.parquet", *RGB)
    with pytest.raises(UserError, match="is for a single raster"):
        embed(eurosat_root, tmp_path / "e.tif")
    whole = embed(raster, tmp_path / "e.parquet", *RGB)
    with pytest.raises(UserError, match="is an embedding of another encoder"):
        embed(raster, tmp_path / "e.parquet", *RGB, "--seed", "1")
    assert (vectors(tmp_path / "e.parquet") == whole).all()
    assert not (tmp_path / "empty.parquet").exists()
