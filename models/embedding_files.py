"""GeoParquet, npz and GeoTIFF of the features of patches, written part by part."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import date
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.embedding_parts import Part, Parts
from models.footprint_wkb import boxes_of, wkb_of
from utils.errors import UserError
from utils.files import written_whole
from utils.patch_blocks import Grid, PatchBlocks
from utils.report import provenance

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"embedding"  # key of ours in the metadata of a Parquet file


def write_embedding(
    args: Namespace, parts: Parts, patches: PatchBlocks, identity: Mapping[str, str]
) -> int:
    """Write the file that the flags request, and return its number of patches.

    Args:
        args: Flags of the run.
        parts: Features of all blocks.
        patches: What was embedded.
        identity: What the features depend on.

    Raises:
        UserError: No patch holds data, or the file cannot be written.
    """
    count = sum(len(part.ids) for part in parts)
    if count == 0:
        parts.remove()  # they would stand in the way of another try
        raise UserError(
            f"{args.data_dir} has no patch that holds enough data: raise --max_nodata, or choose "
            "another raster"
        )
    contract = patches.transform.spec.to_dict()
    facts = {"identity": dict(identity), "input": contract} | provenance(args)
    facts = json.loads(json.dumps(facts, default=str))
    if args.save_path.suffix == ".tif":
        assert patches.grid is not None  # checked at the start
        write_geotiff(args.save_path, parts, patches.grid, args.components, facts)
    else:
        write = write_parquet if args.save_path.suffix == ".parquet" else write_npz
        write(args.save_path, parts, facts)
    return count


def read_identity(path: Path) -> dict[str, str]:
    """Return what the features of a file depend on; empty if it does not say so.

    Args:
        path: A file that ``write_embedding`` may have written.

    Raises:
        UserError: The file is damaged, or another one.
    """
    import pyarrow.parquet as pq
    import rasterio

    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                facts = (file.schema_arrow.metadata or {}).get(METADATA, b"{}")
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                facts = str(arrays["facts"])
        else:
            with rasterio.open(path, driver="GTiff") as raster:
                facts = raster.tags().get("embedding", "{}")
        found = json.loads(facts)["identity"]
        return {str(name): str(value) for name, value in found.items()}
    except Exception as error:  # of three libraries, for a file of anyone
        raise UserError(
            f"{path} is damaged, or not a file of main_embed.py: choose another --save_path"
        ) from error


def write_parquet(path: Path, parts: Parts, facts: Mapping[str, Any]) -> None:
    """Write GeoParquet 1.1 (geoparquet.org/releases/v1.1.0): one row per patch.

    Columns: ``id``, ``source``, ``datetime``, ``bbox`` and ``geometry`` (WKB, EPSG:4326, null where
    unknown), and ``embedding``, a list of fixed size.

    Args:
        path: File to write.
        parts: Features of all blocks.
        facts: Encoder, input contract and versions, plain values.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = parts.read(0).features
    of_value = pa.float16() if first.dtype == np.float16 else pa.float32()
    box = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
    # Values that cannot be null are read in half of the time.
    vector = pa.list_(pa.field("element", of_value, nullable=False), first.shape[1])
    types = {"id": pa.string(), "source": pa.string(), "datetime": pa.timestamp("ms", "UTC")}
    types |= {"bbox": box, "geometry": pa.binary()}
    fields = [*starmap(pa.field, types.items()), pa.field("embedding", vector, nullable=False)]
    boxes = np.concatenate([boxes_of(part.corners) for part in parts])
    metadata = {b"geo": json.dumps(_geo(boxes)).encode(), METADATA: json.dumps(facts).encode()}
    schema = pa.schema(fields, metadata)
    settings: dict[str, Any] = {
        "compression": {"embedding.list.element": "NONE"},  # noise, which is read often
        "use_dictionary": ["source"],
        "write_statistics": ["bbox.xmin", "bbox.ymin", "bbox.xmax", "bbox.ymax"],
    }
    with (
        written_whole(path, pa.ArrowException) as partial,
        pq.ParquetWriter(partial, schema, **settings) as writer,
    ):
        for part in parts:
            if part.ids:
                writer.write_table(_table(part, schema))


def write_npz(path: Path, parts: Parts, facts: Mapping[str, Any]) -> None:
    """Write the arrays ``embedding`` (N, D), ``id``, ``datetime``, ``bbox`` (N, 4) and ``facts``.

    Args:
        path: File to write.
        parts: Features of all blocks.
        facts: Encoder, input contract and versions, plain values.
    """
    count = sum(len(part.ids) for part in parts)
    first = parts.read(0).features
    with (
        written_whole(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        with archive.open("embedding.npy", "w", force_zip64=True) as file:
            header = {"descr": first.dtype.str, "fortran_order": False}
            shape = count, first.shape[1]
            np.lib.format.write_array_header_2_0(file, header | {"shape": shape})
            for part in parts:
                file.write(part.features.tobytes())
        arrays = {
            "id": np.array([name for part in parts for name in part.ids], str),
            "datetime": np.array([day for part in parts for day in part.days], str),
            "bbox": np.concatenate([boxes_of(part.corners) for part in parts]),
            "facts": np.array(json.dumps(facts)),
        }
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def write_geotiff(
    path: Path, parts: Parts, grid: Grid, components: int | None, facts: Mapping[str, Any]
) -> None:
    """Write a raster with a pixel per patch, float32; NaN for missing data.

    Args:
        path: File to write.
        parts: Features of all blocks.
        grid: Where the patches are.
        components: Bands by principal component analysis, scaled so that 2 % of the values lie
            below 0 and above 1; None writes a band per dimension.
        facts: Encoder, input contract and versions, plain values.
    """
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    project = _projection(parts, components) if components else lambda features: features
    rows, columns = grid.shape
    profile = {"driver": "GTiff", "height": rows, "width": columns, "dtype": "float32"}
    profile |= {"count": components or parts.read(0).features.shape[1], "nodata": np.nan}
    profile |= {"crs": grid.crs or None, "transform": rasterio.Affine(*grid.transform)}
    profile |= {"interleave": "pixel", "compress": "deflate", "predictor": 3, "bigtiff": "if_safer"}
    with (
        written_whole(path, RasterioError) as partial,
        rasterio.open(partial, "w", **profile) as file,
    ):
        missing = np.full((file.count, 1, columns), np.nan, np.float32)
        for row in range(rows):  # GDAL would write 0 around a window once its cache is full
            file.write(missing, window=Window(0, row, columns, 1))
        for part in parts:
            if not part.ids:
                continue
            (top, left), (bottom, right) = part.cells.min(0), part.cells.max(0) + 1
            shape = file.count, int(bottom - top), int(right - left)
            values = np.full(shape, np.nan, np.float32)
            values[:, *(part.cells - (top, left)).T] = project(part.features.astype(np.float32)).T
            file.write(values, window=Window(left, top, right - left, bottom - top))
        file.update_tags(embedding=json.dumps(facts))


def _table(part: Part, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    boxes = boxes_of(part.corners)
    unknown = np.isnan(boxes).any(1)
    box, vector = schema.field("bbox").type, schema.field("embedding").type
    planes = [pa.array(np.ascontiguousarray(plane)) for plane in boxes.T]
    days = [date.fromisoformat(day) if day else None for day in part.days]
    return pa.table(
        [
            pa.array(part.ids, pa.string()),
            pa.array([part.source] * len(part.ids), pa.string()),
            pa.array(days, pa.date32()).cast(schema.field("datetime").type),
            pa.StructArray.from_arrays(planes, fields=list(box), mask=pa.array(unknown)),
            pa.array(wkb_of(part.corners), pa.binary()),
            pa.FixedSizeListArray.from_arrays(pa.array(part.features.ravel()), type=vector),
        ],
        schema=schema,
    )


def _geo(boxes: np.ndarray) -> dict[str, Any]:
    """Return the metadata of GeoParquet."""
    from rasterio.crs import CRS

    known = boxes[~np.isnan(boxes).any(1)]
    crosses = known[:, 0] > known[:, 2]  # the antimeridian
    kinds = ["Polygon"] * bool((~crosses).any()) + ["MultiPolygon"] * bool(crosses.any())
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": kinds,
        "crs": CRS.from_epsg(4326).to_dict(projjson=True),
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if len(known) and not crosses.any():
        column["bbox"] = [*known[:, :2].min(0).tolist(), *known[:, 2:].max(0).tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _projection(parts: Parts, components: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function to the first principal components, scaled to 0..1."""
    size, count = parts.read(0).features.shape[1], 0
    total, squares = np.zeros(size), np.zeros((size, size))
    for part in parts:
        features = part.features.astype(np.float64)
        total, squares = total + features.sum(0), squares + features.T @ features
        count += len(features)
    if count < components:
        raise UserError(f"{count} patches are too few for {components} components")
    mean = total / count
    _, axes = np.linalg.eigh(squares / count - np.outer(mean, mean))
    axes = axes[:, ::-1][:, :components]
    axes *= np.where(axes.sum(0) < 0, -1, 1)  # the sign is arbitrary, and would differ by machine
    scores = np.concatenate([(part.features - mean) @ axes for part in parts])
    low, high = np.quantile(scores, (0.02, 0.98), axis=0)
    spread = np.maximum(high - low, np.finfo(np.float32).tiny)
    return lambda features: (((features - mean) @ axes - low) / spread).astype(np.float32)
