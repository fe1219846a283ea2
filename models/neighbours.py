"""The patches most similar to a query, exactly, from a GeoParquet file of any size."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import written_whole

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_ROWS_PER_BATCH = 4096
_BOX = ("xmin", "ymin", "xmax", "ymax")
_POINT = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*")


class Neighbour(NamedTuple):
    """One of the most similar patches.

    Attributes:
        row: Its row in the file.
        similarity: Cosine of the angle between the embeddings, in -1..1.
        patch: Its id.
        source: File or data set that holds it.
        day: Its date by ISO 8601, "" if unknown.
        latitude: Of its centre, degrees; None if unknown.
        longitude: Of its centre, degrees; None if unknown.
    """

    row: int
    similarity: float
    patch: str
    source: str
    day: str
    latitude: float | None
    longitude: float | None


def row_of_point(path: Path, latitude: float, longitude: float) -> int:
    """Return the row of the patch whose centre is nearest to a point that its box contains.

    Args:
        path: GeoParquet of an embedding.
        latitude: Degrees north.
        longitude: Degrees east.

    Raises:
        UserError: No patch contains the point.
    """
    with _opened(path) as file:
        boxes = _boxes(file.read(columns=["bbox"]))
    west, south, east, north = boxes.T
    east = np.where(east < west, east + 360, east)  # across the antimeridian
    x = np.where(longitude < west, longitude + 360, longitude)
    inside = (west <= x) & (x <= east) & (south <= latitude) & (latitude <= north)
    if not inside.any():
        raise UserError(
            f"no patch of {path} contains {latitude:g},{longitude:g} (latitude, longitude): choose "
            "a place within its imagery"
        )
    distance = np.hypot(
        (x - (west + east) / 2) * np.cos(np.radians(latitude)), latitude - (south + north) / 2
    )
    return int(np.where(inside, distance, np.inf).argmin())


def embedding_of(path: Path, row: int) -> np.ndarray:
    """Return the embedding of a row, float32, shape (D,).

    Args:
        path: GeoParquet of an embedding.
        row: Number of the row, from 0.

    Raises:
        UserError: There is no such row.
    """
    with _opened(path) as file:
        count = file.metadata.num_rows
        if not 0 <= row < count:
            raise UserError(f"{path} has no row {row}: the rows are 0 to {count - 1}")
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row < size:
                found = file.read_row_group(group, columns=["embedding"])
                return _vectors(found.column("embedding").chunk(0))[row].astype(np.float32)
            row -= size
    raise AssertionError("a row group has this row")


def row_of_patch(path: Path, patch: str) -> int | None:
    """Return the row of the patch with this id; None if there is none.

    Args:
        path: GeoParquet of an embedding.
        patch: Its id.
    """
    import pyarrow.compute as pc

    with _opened(path) as file:
        row = pc.index(file.read(columns=["id"]).column("id"), patch).as_py()
    return None if row < 0 else int(row)


def nearest(
    path: Path, query: np.ndarray, k: int, num_threads: int, row: int | None = None
) -> list[Neighbour]:
    """Return the patches with the most similar embeddings, the most similar first.

    Args:
        path: GeoParquet of an embedding.
        query: Embedding, shape (D,).
        k: Number of patches to return.
        num_threads: Threads that read.
        row: Row of the query, which is not its own neighbour; None if it is not in the file.

    Raises:
        UserError: The query has another dimension than the embeddings.
    """
    with _opened(path) as file:
        groups, dimension = file.num_row_groups, _dimension(file)
    if len(query) != dimension:
        raise UserError(
            f"the query has {len(query)} dimensions, but the embeddings of {path} {dimension}: use "
            "the encoder that made the file"
        )
    unit = (query / max(float(np.linalg.norm(query)), 1e-12)).astype(np.float32)
    parts = np.array_split(np.arange(groups), max(1, min(num_threads, groups)))
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        found = pool.map(lambda part: _scores(path, part.tolist(), unit), parts)
        scores = np.concatenate(list(found))
    count = min(k, len(scores) - (row is not None))
    if row is not None:
        scores[row] = -np.inf
    best = np.argpartition(-scores, max(count - 1, 0))[:count]
    best = best[np.lexsort((best, -scores[best]))]
    return describe(path, best, scores[best])


def describe(path: Path, rows: np.ndarray, similarities: np.ndarray) -> list[Neighbour]:
    """Return what a file says about some rows.

    Args:
        path: GeoParquet of an embedding.
        rows: The rows, int64, shape (K,).
        similarities: Their similarities to the query, shape (K,).
    """
    neighbours = []
    with _opened(path) as file:
        groups = range(file.num_row_groups)
        starts = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in groups)])
        for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
            group = int(np.searchsorted(starts, row, side="right")) - 1
            table = file.read_row_group(group, columns=["id", "source", "datetime", "bbox"])
            found = table.slice(row - int(starts[group]), 1).to_pylist()[0]
            day = found["datetime"].date().isoformat() if found["datetime"] else ""
            latitude = longitude = None
            if box := found["bbox"]:
                east = box["xmax"] + 360 * (box["xmax"] < box["xmin"])
                latitude = (box["ymin"] + box["ymax"]) / 2
                longitude = ((box["xmin"] + east) / 2 + 180) % 360 - 180
            of_patch = (found["id"], found["source"], day, latitude, longitude)
            neighbours.append(Neighbour(row, similarity, *of_patch))
    return neighbours


def write_table(path: Path, neighbours: Sequence[Neighbour]) -> None:
    """Write neighbours as CSV, the most similar first.

    Args:
        path: File to write.
        neighbours: The neighbours.
    """
    with written_whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        names = [name.replace("patch", "id") for name in Neighbour.__annotations__]
        writer.writerow(("rank", *names))
        for rank, each in enumerate(neighbours, 1):
            writer.writerow((rank, *each._replace(similarity=round(each.similarity, 6))))


def parse_point(text: str) -> tuple[float, float] | None:
    """Return latitude and longitude of "LAT,LNG"; None for another text.

    Raises:
        UserError: The numbers are beyond the Earth.
    """
    found = _POINT.fullmatch(text)
    if found is None:
        return None
    latitude, longitude = map(float, found.groups())
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise UserError(f"{text} is not LATITUDE,LONGITUDE in degrees, -90..90 and -180..180")
    return latitude, longitude


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
            is_ours = {"id", "source", "datetime", "bbox", "embedding"} <= set(schema.names)
            if not is_ours or not pa.types.is_fixed_size_list(schema.field("embedding").type):
                raise UserError(f"{path} is not a file of main_embed.py: choose another path")
            if count == 0:
                raise UserError(f"{path} holds no patch: embed again")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: embed again") from error


def _dimension(file: pq.ParquetFile) -> int:
    kind = file.schema_arrow.field("embedding").type
    return int(kind.list_size)


def _scores(path: Path, groups: list[int], unit: np.ndarray) -> np.ndarray:
    """Return the cosine of each embedding of some row groups with a unit vector."""
    found = [np.empty(0, np.float32)]
    with _opened(path) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, groups, columns=["embedding"]):
            vectors = _vectors(batch.column(0)).astype(np.float32, copy=False)
            norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
            # Not `@`: from several threads, those of its BLAS wait busily for each other.
            found.append(np.einsum("nd,d->n", vectors, unit) / np.maximum(norms, 1e-12))
    return np.concatenate(found)


def _vectors(column: Any) -> np.ndarray:
    """Return a list column as an array (N, D), without a copy."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _boxes(table: Any) -> np.ndarray:
    """Return the boxes of a table, NaN for null: float64, shape (N, 4)."""
    column = table.column("bbox").combine_chunks()
    return np.stack([column.field(name).to_numpy(zero_copy_only=False) for name in _BOX], axis=1)
