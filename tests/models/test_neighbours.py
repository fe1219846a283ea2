"""The nearest patches, against all distances; places, rows and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.embedding_files import write_parquet
from models.embedding_parts import Parts
from models.neighbours import (
    embedding_of,
    nearest,
    parse_point,
    row_of_patch,
    row_of_point,
    write_table,
)
from utils.errors import UserError
from utils.patch_blocks import PatchBlock

COUNT, DIMENSION, BLOCK = 230, 16, 50
SQUARE = np.array([(0, 1), (0, 0), (1, 0), (1, 1)], np.float64)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A file of patches along a parallel, the last across the antimeridian, and its features."""
    path = tmp_path_factory.mktemp("embedding") / "e.parquet"
    features = np.random.default_rng(1).standard_normal((COUNT, DIMENSION)).astype(np.float32)
    corners = np.stack([SQUARE + (-50 + n, 10) for n in range(COUNT)])
    corners[-1] = SQUARE + (179.5, 10)
    corners[..., 0] = (corners[..., 0] + 180) % 360 - 180
    parts = Parts(path, {"imagery": "a"}, -(-COUNT // BLOCK))
    for block in range(parts.num_blocks):
        rows = range(block * BLOCK, min(COUNT, (block + 1) * BLOCK))
        own = slice(rows.start, rows.stop)
        pictures = np.zeros((len(rows), 3, 2, 2), np.uint8)
        names = [f"p{row}" for row in rows]
        cells = np.empty((len(rows), 0), np.int64)
        found = PatchBlock(
            pictures, names, "a.tif", ["2020-01-02"] * len(rows), corners[own], cells
        )
        parts.write(block, found, features[own])
    write_parquet(path, parts, {"identity": {"imagery": "a"}})
    return path, features


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("k", [1, 7, COUNT, COUNT + 5])
def test_neighbours_are_those_of_all_cosines(
    embedding: tuple[Path, np.ndarray], k: int, num_threads: int
) -> None:
    path, features = embedding
    query = np.random.default_rng(2).standard_normal(DIMENSION)
    cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
    expected = np.argsort(-cosines, kind="stable")[:k]
    found = nearest(path, query, k, num_threads)
    assert [each.row for each in found] == expected.tolist()
    np.testing.assert_allclose([each.similarity for each in found], cosines[expected], atol=1e-6)
    assert [each.patch for each in found] == [f"p{row}" for row in expected]
    assert {each.day for each in found} == {"2020-01-02"}


def test_a_row_is_its_own_nearest_neighbour_unless_it_is_the_query(
    embedding: tuple[Path, np.ndarray],
) -> None:
    path, features = embedding
    for row in (0, 49, 50, COUNT - 1):
        assert (embedding_of(path, row) == features[row]).all()
        assert row_of_patch(path, f"p{row}") == row
        first, *others = nearest(path, features[row], COUNT, 2)
        assert first.row == row
        assert nearest(path, features[row], 3, 2, row) == others[:3]
        assert nearest(path, features[row], COUNT, 2, row) == others
    assert row_of_patch(path, "p") is None


def test_a_place_is_in_the_patch_that_holds_it(embedding: tuple[Path, np.ndarray]) -> None:
    path, _ = embedding
    assert row_of_point(path, 10.5, -49.6) == 0
    assert row_of_point(path, 10.2, 179.9) == row_of_point(path, 10.2, -179.9) == COUNT - 1
    (found,) = nearest(path, embedding_of(path, COUNT - 1), 1, 1)
    assert (found.latitude, abs(found.longitude or 0)) == (10.5, 180)
    with pytest.raises(UserError, match=r"no patch of .* contains 12,0"):
        row_of_point(path, 12, 0)


def test_queries_that_fit_nothing_are_refused(embedding: tuple[Path, np.ndarray]) -> None:
    path, features = embedding
    with pytest.raises(UserError, match=f"has no row {COUNT}: the rows are 0 to"):
        embedding_of(path, COUNT)
    with pytest.raises(UserError, match=r"has 3 dimensions, but the embeddings .* 16"):
        nearest(path, features[0, :3], 1, 1)
    assert parse_point("48.85, -2.5") == (48.85, -2.5)
    assert parse_point("12") is parse_point("a.jpg") is None
    with pytest.raises(UserError, match="is not LATITUDE,LONGITUDE in degrees"):
        parse_point("148.85,2")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    path.write_text("no parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        embedding_of(path, 0)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match=r"not a file of main_embed\.py"):
        embedding_of(path, 0)


def test_the_table_has_a_line_per_neighbour(
    embedding: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, features = embedding
    write_table(tmp_path / "n.csv", nearest(path, features[3], 2, 1))
    head, first, _ = (tmp_path / "n.csv").read_text().splitlines()
    assert head == "rank,row,similarity,id,source,day,latitude,longitude"
    assert first.startswith("1,3,")
    assert first.endswith(",p3,a.tif,2020-01-02,10.5,-46.5")
