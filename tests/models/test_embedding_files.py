"""GeoParquet, npz and GeoTIFF of features, read back by other libraries."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely

from models.embedding import wait_for
from models.embedding_files import (
    METADATA,
    read_identity,
    write_geotiff,
    write_npz,
    write_parquet,
)
from models.embedding_parts import Parts
from models.footprint_wkb import boxes_of, wkb_of
from utils.errors import UserError
from utils.patch_blocks import Grid, PatchBlock

SQUARE = np.array([(0, 1), (0, 0), (1, 0), (1, 1)], np.float64)
UNKNOWN = np.full((4, 2), np.nan)


def make_parts(path: Path, corners: np.ndarray, dtype: str = "float32", size: int = 3) -> Parts:
    """Write features of patches with these corners, (N, 4, 2), in blocks of ``size``."""
    rng = np.random.default_rng(0)
    blocks = [corners[at : at + size] for at in range(0, len(corners), size)]
    parts = Parts(path, {"imagery": "a"}, len(blocks))
    for number, own in enumerate(blocks):
        ids = [f"a/{number}/{row}" for row in range(len(own))]
        cells = np.array([(number, row) for row in range(len(own))], np.int64)
        pictures = np.zeros((len(own), 3, 2, 2), np.uint8)
        days = ["2019-04-05" if number % 2 else ""] * len(own)
        features = rng.standard_normal((len(own), 5)).astype(dtype)
        parts.write(number, PatchBlock(pictures, ids, "a.tif", days, own, cells), features)
    return parts


def squares(*corners: tuple[float, float]) -> np.ndarray:
    return np.stack([SQUARE + corner for corner in corners])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_geopandas_reads_what_was_written(tmp_path: Path, dtype: str) -> None:
    corners = np.concatenate([squares((2, 48), (-5, -9), (179.5, 0)), UNKNOWN[None]])
    corners[2, 2:, 0] -= 360  # the eastern side of the third square
    parts = make_parts(tmp_path / "e.parquet", corners, dtype)
    write_parquet(tmp_path / "e.parquet", parts, {"encoder": "a"})
    frame = geopandas.read_parquet(tmp_path / "e.parquet")
    assert frame.crs == "EPSG:4326"
    assert list(frame.columns) == ["id", "source", "datetime", "geometry", "embedding"]
    first, second, split, unknown = frame.geometry
    assert first.equals(shapely.box(2, 48, 3, 49))
    assert second.equals(shapely.box(-5, -9, -4, -8))
    two_sides = shapely.MultiPolygon(
        [shapely.box(179.5, 0, 180, 1), shapely.box(-180, 0, -179.5, 1)]
    )
    assert split.equals(two_sides)
    assert unknown is None
    assert all(ring.exterior.is_ccw for ring in (first, second, *split.geoms))
    boxes = pq.read_table(tmp_path / "e.parquet")["bbox"].to_pylist()
    assert [box and (box["xmin"], box["xmax"]) for box in boxes] == [
        *((2, 3), (-5, -4), (179.5, -179.5)),
        None,
    ]
    assert str(frame.datetime[3].date()) == "2019-04-05"
    assert frame.datetime.isna().tolist() == [True, True, True, False]
    stored = np.stack(frame.embedding)
    assert stored.dtype == dtype
    assert (stored == np.concatenate([part.features for part in parts])).all()
    file = pq.ParquetFile(tmp_path / "e.parquet")
    assert json.loads(file.schema_arrow.metadata[METADATA]) == {"encoder": "a"}
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["geometry_types"] == ["Polygon", "MultiPolygon"]
    assert "bbox" not in column  # of all patches, it would cross the antimeridian
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]


def test_numpy_reads_what_was_written(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "e.npz", squares(*[(n, n) for n in range(7)]))
    write_npz(tmp_path / "e.npz", parts, {"encoder": "a"})
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert (file["embedding"] == np.concatenate([part.features for part in parts])).all()
        assert file["id"].tolist() == [name for part in parts for name in part.ids]
        assert (file["bbox"][6] == (6, 6, 7, 7)).all()
        assert json.loads(str(file["facts"])) == {"encoder": "a"}


def test_a_geotiff_has_a_pixel_per_patch_and_principal_components_are_those_of_svd(
    tmp_path: Path,
) -> None:
    parts = make_parts(tmp_path / "e.tif", squares(*[(n, n) for n in range(8)]))
    grid = Grid("EPSG:32631", (640.0, 0.0, 5e5, 0.0, -640.0, 5.4e6), (3, 4))
    features = np.concatenate([part.features for part in parts])
    cells = np.concatenate([part.cells for part in parts])
    with rasterio.Env(GDAL_CACHEMAX=0):  # as if the raster were larger than the cache
        write_geotiff(tmp_path / "all.tif", parts, grid, None, {"identity": {"encoder": "a"}})
        write_geotiff(tmp_path / "rgb.tif", parts, grid, 3, {})
    assert read_identity(tmp_path / "all.tif") == {"encoder": "a"}
    with rasterio.open(tmp_path / "all.tif") as file:
        assert file.crs.to_epsg() == 32631
        assert tuple(file.transform)[:6] == grid.transform
        values = file.read()
    assert values.shape == (5, 3, 4)
    assert (values[:, *cells.T] == features.T).all()
    assert np.isnan(values).sum() == 5 * (12 - 8)
    with rasterio.open(tmp_path / "rgb.tif") as file:
        found = file.read()[:, *cells.T].T
    centred = features - features.mean(0)
    scores = centred @ np.linalg.svd(centred.astype(np.float64))[2][:3].T
    low, high = np.quantile(scores, (0.02, 0.98), axis=0)
    expected = (scores - low) / (high - low)
    flipped = 1 - (scores - low) / (high - low)  # the sign of an axis is arbitrary
    errors = np.minimum(abs(found - expected).max(0), abs(found - flipped).max(0))
    assert (errors < 1e-4).all()


def test_boxes_and_polygons_of_no_patches() -> None:
    assert boxes_of(np.empty((0, 4, 2))).shape == (0, 4)
    assert wkb_of(np.empty((0, 4, 2))) == []


def test_blocks_that_are_lost_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make_parts(tmp_path / "e.npz", squares((0, 0)))

    def lose() -> list[int]:
        parts.folder.rename(tmp_path / "moved")
        return [0]

    monkeypatch.setattr(parts, "missing", lose)
    with pytest.raises(UserError, match=r"e\.npz\.parts was removed or renamed"):
        wait_for(parts)
    assert not parts.folder.exists()


def test_parts_of_another_embedding_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "e.npz", squares((0, 0)))
    with pytest.raises(UserError, match="beginning of an embedding of another imagery"):
        Parts(tmp_path / "e.npz", {"imagery": "b"}, 1)
    file = parts.folder / "000000.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"000000\.npz is damaged: delete it"):
        parts.read(0)
    np.savez(file, features=np.zeros(3), ids=["a"], source="a", days=[""], corners=[], cells=[])
    with pytest.raises(UserError, match=r"000000\.npz is damaged: delete it"):
        parts.read(0)
    for text in ("{", "null", "[]", "[" * 100_000):
        (parts.folder / "identity.json").write_text(text)
        with pytest.raises(UserError, match="is damaged: delete it"):
            Parts(tmp_path / "e.npz", {"imagery": "a"}, 1)
