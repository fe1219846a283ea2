"""The examples, from their command lines to their files, on small data."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import torch
from PIL import Image

from datasets.mini_earth import write_rasters
from examples import (
    change_map,
    embed_geotiff,
    export_encoder,
    few_labels,
    pretrain_pictures,
    search_city,
)
from models.backbones import load_encoder
from tests.references.legacy_checkpoint import write_legacy_checkpoint
from tests.references.raster_files import coded, write_raster
from tests.references.script import ROOT
from utils.errors import UserError
from utils.input_spec import DataSpec, input_transform

EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "__init__")
NOTEBOOK = ROOT / "examples" / "embed_geotiff.ipynb"
PAGE = (ROOT / "docs" / "examples.md").read_text()


@pytest.fixture(scope="module")
def seco_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the published ones, which Lightning 1.1 wrote."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "as_published.ckpt"
    write_legacy_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def slim_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of an encoder that is a quarter as wide."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "slim.ckpt"
    write_legacy_checkpoint(path, "resnet18_slim")
    return path


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A city of 192 px on two dates."""
    root = tmp_path_factory.mktemp("city")
    write_rasters(root / "raster", num_cities=1, size=192, num_workers=1)
    return root / "raster" / "000000"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_shown_in_the_docs(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
    assert f"python -m examples.{path.stem} " in PAGE
    assert f"(../examples/{path.name})" in PAGE


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than a small training, and has tests of its own."""
    for name in ("pretrain_run.plot_views", "pretrain_run.plot_training"):
        monkeypatch.setattr(f"models.{name}", lambda *_: None)
    monkeypatch.setattr("models.evaluation.write_pictures", lambda *_: None)
    monkeypatch.setattr("models.probes.STRENGTHS", (1.0,))


@pytest.mark.usefixtures("_quick")
def test_a_folder_of_pictures_becomes_an_encoder_and_a_report(
    eurosat_root: Path, tmp_path: Path
) -> None:
    flags = ["--data_dir", str(eurosat_root), "--log_dir", str(tmp_path), "--max_epochs", "1"]
    flags += ["--base_encoder", "resnet18_slim", "--batch_size", "8", "--num_negatives", "16"]
    run_dir = pretrain_pictures.main(flags)
    assert (run_dir / "report.html").stat().st_size > 100_000  # with thumbnails
    with (run_dir / "embedding_neighbours.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["rank"], first["row"] == "0") == ("1", False)  # which is the query
    assert 0 < float(first["similarity"]) <= 1


def test_seco_weights_embed_a_geotiff_by_their_contract(
    seco_weights: Path, city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_dir", str(city / "before.tif"), "--ckpt_path", str(seco_weights)]
    embed_geotiff.main([*flags, "--save_dir", str(tmp_path / "e")])
    assert "('B4', 'B3', 'B2')" in capsys.readouterr().out
    with np.load(tmp_path / "e/embedding.npz") as file:
        features, cells = file["features"], file["cells"]
    assert features.shape == (25, 512)
    at = cells.tolist().index([2, 3])
    with rasterio.open(city / "before.tif") as file:
        dn = file.read([3, 2, 1])[:, 64:128, 96:160]
    encoder, spec = load_encoder("pretrain", ckpt_path=seco_weights)
    data = DataSpec.of_reflectance("the city", ("B2", "B3", "B4", "B8"))
    transform = input_transform(spec, data, "auto")
    with torch.inference_mode():
        window = torch.from_numpy(transform.to_picture(dn))
        expected = encoder(transform.normalize(window[None]))[0]
    np.testing.assert_allclose(features[at], expected, rtol=1e-4, atol=1e-4)
    with Image.open(tmp_path / "e/embedding.png") as picture:
        assert picture.size == (80, 80)


def test_a_search_starts_at_its_place(
    slim_weights: Path, city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rasterio.open(city / "before.tif") as file:
        (x,), (y,) = rasterio.warp.transform(file.crs, "EPSG:4326", *zip(file.xy(95, 63)))
    flags = ["--data_dir", str(city / "before.tif"), "--ckpt_path", str(slim_weights)]
    flags += ["--place", f"{y},{x}", "--save_dir", str(tmp_path)]
    assert search_city.main(flags).stat().st_size < 100_000
    with (tmp_path / "city_neighbours.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 10
    itself = "before.tif/2/1"  # rows 64 to 128, columns 32 to 96
    assert f"query: row 11, {itself}\n" in capsys.readouterr().out
    assert itself not in [each["id"] for each in found]


@pytest.mark.usefixtures("_quick")
def test_few_labels_are_compared_with_a_random_encoder(
    slim_weights: Path, eurosat_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_dir", str(eurosat_root), "--ckpt_path", str(slim_weights)]
    flags += ["--labels_per_class", "2", "--log_dir", str(tmp_path)]
    results = few_labels.main(flags)
    lines = [line.split()[1:4] for line in capsys.readouterr().out.splitlines()[-8:]]
    assert lines == [
        [encoder, method, f"{shares['1']['test/accuracy']:.2f}"]
        for encoder, methods in results.items()
        for method, shares in methods.items()
    ]
    assert {shares["1"]["num_labelled"] for shares in results["random"].values()} == {20}


def test_changes_are_where_pixels_changed_and_nowhere_between_equal_dates(
    slim_weights: Path, city: Path, tmp_path: Path
) -> None:
    before, after = str(city / "before.tif"), tmp_path / "after.tif"
    flags = ["--ckpt_path", str(slim_weights), "--save_dir"]
    same = change_map.main([before, before, *flags, str(tmp_path / "same")])
    with rasterio.open(same) as file:
        assert np.abs(file.read(1)).max() < 1e-5
    with rasterio.open(before) as file:
        pixels, bands = file.read(), file.descriptions
        where = {"crs": file.crs.to_string(), "transform": file.transform}
    pixels[:, 64:128, 80:144] = pixels[:, :64, :64].transpose(0, 2, 1) // 2  # its block 4, 5
    write_raster(after, pixels, bands, **where)
    found = change_map.main([before, str(after), *flags, str(tmp_path / "changed")])
    with rasterio.open(found) as file:
        assert file.bounds.left == where["transform"].c + 80  # half of 32 - 16 px
        change = file.read(1)
    row, column = np.mgrid[:11, :11]
    is_far = (abs(row - 5) > 3) | (abs(column - 6) > 3)  # no pixel of the window has changed
    is_near = (abs(row - 5) < 2) & (abs(column - 6) < 2)  # all have
    assert change[is_near].min() > change[is_far].max()
    small = str(write_raster(tmp_path / "small.tif", pixels[:, :96], bands, **where))
    with pytest.raises(UserError, match="has other pixels than"):
        change_map.main([before, small, *flags, str(tmp_path / "other")])


@pytest.mark.parametrize("name", ["change.tif", "change.png"])
def test_a_change_map_replaces_no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"the user's")
    with pytest.raises(UserError, match=r"has a change\.tif or \.png: choose another"):
        change_map.main(["a.tif", "b.tif", "--ckpt_path", "x", "--save_dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"the user's"


@pytest.mark.parametrize("kind", ["one window", "no data", "pictures"])
def test_only_a_raster_of_some_windows_has_colours(
    kind: str, slim_weights: Path, eurosat_root: Path, tmp_path: Path
) -> None:
    data = eurosat_root if kind == "pictures" else tmp_path / "scene.tif"
    if kind != "pictures":
        pixels = coded(64, 64) if kind == "one window" else 0 * coded(192, 192)
        write_raster(data, pixels)
    flags = ["--data_dir", str(data), "--ckpt_path", str(slim_weights)]
    with pytest.raises(UserError, match="is no raster of 3 windows with data: give a larger one"):
        embed_geotiff.main([*flags, "--save_dir", str(tmp_path / "e")])
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("place", ["0", "picture.jpg", "95,200"])
def test_a_search_needs_a_place(place: str, tmp_path: Path) -> None:
    flags = ["--data_dir", "x.tif", "--ckpt_path", "x", "--place", place]
    with pytest.raises(UserError, match="is not LATITUDE,LONGITUDE"):
        search_city.main([*flags, "--save_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["damaged", "missing", "pipe", "folder"])
def test_nothing_is_exported_for_what_is_no_picture(
    kind: str, slim_weights: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.jpg"
    if kind == "damaged":
        picture.write_bytes(b"no picture")
    elif kind == "pipe":
        os.mkfifo(picture)
    elif kind == "folder":
        picture.mkdir()
    flags = ["--ckpt_path", str(slim_weights), "--picture", str(picture)]
    with pytest.raises(UserError, match=r"picture\.jpg is no readable JPEG, PNG or TIFF"):
        export_encoder.main([*flags, "--save_dir", str(tmp_path / "exported")])
    assert not (tmp_path / "exported").exists()


@pytest.mark.slow
def test_timm_and_onnx_give_the_features_of_this_project(
    seco_weights: Path, eurosat_root: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    picture = eurosat_root / "River" / "River_1.jpg"
    flags = ["--ckpt_path", str(seco_weights), "--picture", str(picture)]
    found = export_encoder.main([*flags, "--save_dir", str(tmp_path / "exported")])
    encoder, spec = load_encoder("pretrain", ckpt_path=seco_weights)
    pixels = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)
    with torch.inference_mode():
        expected = encoder(spec.normalize(pixels[None]))
    for features in found.values():
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)


def test_the_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert NOTEBOOK.stat().st_size < 200_000
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not [each for each in cell["outputs"] if each["output_type"] == "error"]
            exec("".join(cell["source"]), names)
