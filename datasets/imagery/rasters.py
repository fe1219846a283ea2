"""Windows of a GeoTIFF or VRT of any size; only the rows that are being read are in memory."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datasets.bands import check_dn
from datasets.geotiff.footprints import corners_of, pixel_m
from datasets.geotiff.reader import open_quietly, place_of
from datasets.imagery.raster_files import day_of_raster, files_of_raster, stored_values
from utils.errors import UserError, quoted
from utils.input_spec import DataSpec, InputSpec, InputTransform
from utils.patch_blocks import Grid, PatchBlock, spans
from utils.report import digest_of

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.transform import Affine

SUFFIXES = (".tif", ".tiff", ".vrt")
_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".vrt": "VRT"}
_PATCHES_PER_BLOCK = 1024
_BLOCK_BYTES = 2**26  # of pictures
_MOST_PATCHES = 10**9  # the land of the Earth in patches of 390 m
_NUM_SAMPLES = 16  # windows that show the unit, and whether there are positions
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # coefficients of a transform
# Files next to a raster may change what it is, so none is read.
_NO_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
# Ground resolution of SeCo's RGB patches (section 3.1 of arXiv 2103.16607), and how far a raster
# may be from it without --scale.
_TRAINED_M, _TOLERANCE = 10.0, 0.1


_held = threading.local()  # the open raster of each thread, to which GDAL's handles belong


def _close() -> None:
    """Close the raster of this thread, if it has one."""
    _held.owner = None
    for each in (getattr(_held, "file", None), getattr(_held, "env", None)):
        if each is not None:
            each.__exit__(None, None, None)
    _held.file = _held.env = None


class RasterFlags(NamedTuple):
    """How a raster is divided into patches.

    Attributes:
        patch_size: Side of a patch in pixels of the encoder.
        stride: Pixels of the encoder between two patches.
        scale: Pixels of the encoder per pixel of the raster; None for 1, with a check.
        bands: Names of the bands in the order of the file; None for those in the file.
        max_nodata: Largest share of pixels without data in a patch, in 0..1.
    """

    patch_size: int = 64
    stride: int = 64
    scale: float | None = None
    bands: Sequence[str] | None = None
    max_nodata: float = 0.0


class RasterWindows:
    """Patches of a raster on a regular grid; a ``PatchBlocks``.

    Args:
        path: GeoTIFF or VRT.
        flags: How it is divided.
        spec: What the encoder expects.
        make_transform: Returns the conversion of the raster's values for the encoder.

    Raises:
        UserError: The file is not a raster, lacks bands of the encoder, is smaller than a patch, or
            has another unit or resolution than the encoder was trained on.
    """

    def __init__(
        self,
        path: Path,
        flags: RasterFlags,
        spec: InputSpec,
        make_transform: Callable[[DataSpec], InputTransform],
    ) -> None:
        self.path = path
        self.flags = flags
        self._files = files_of_raster(path)
        file = self._open()
        data = stored_values(file, path, flags.bands)
        self.transform = make_transform(data)
        self._bands = [data.bands.index(band) + 1 for band in self.transform.bands]
        self.scale = flags.scale or 1.0
        shape = _grid_shape(file, path, flags, self.scale)
        sampled = np.linspace(0, shape[0] * shape[1] - 1, _NUM_SAMPLES).astype(int)
        cells = np.stack(np.divmod(sampled, shape[1]), axis=1)
        self.is_placed = bool(np.isfinite(self._corners(cells)).any())
        self._check_resolution(file, spec)
        crs, transform = place_of(file)
        wkt = crs.to_wkt() if crs and transform else ""
        self.grid = Grid(wkt, self._grid_transform(transform), shape)
        self.num_patches = shape[0] * shape[1]
        self._blocks = self._divide(file, shape)
        self._day = day_of_raster(file, path)
        self.description = (
            f"{self.num_patches:,} windows of {flags.patch_size} px in {path} ({file.width} x "
            f"{file.height} px, {file.count} bands of {file.dtypes[0]})"
        )
        if data.unit == "reflectance":
            self._check_unit(cells)
        self.digest = digest_of([self.fingerprint()])

    def __len__(self) -> int:
        return len(self._blocks)

    def read(self, block: int) -> PatchBlock:
        """Read the windows of a block that hold enough data; see ``PatchBlocks.read``."""
        rows, columns = self._blocks[block]
        size, stride = self.flags.patch_size, self.flags.stride
        pixels, is_valid = self._read_rectangle(rows, columns)
        pictures = self.transform.to_picture(pixels)
        cells, kept = [], []
        for row in range(len(rows)):
            for column in range(len(columns)):
                y, x = row * stride, column * stride
                if 1 - is_valid[y : y + size, x : x + size].mean() <= self.flags.max_nodata:
                    cells.append((rows[row], columns[column]))
                    kept.append(pictures[:, y : y + size, x : x + size])
        found = np.array(cells, np.int64).reshape(-1, 2)
        return PatchBlock(
            np.stack(kept) if kept else np.empty((0, len(pictures), size, size), np.uint8),
            [f"{self.path.name}/{row}/{column}" for row, column in cells],
            str(self.path),
            [self._day] * len(cells),
            self._corners(found),
            found,
        )

    def picture(self, patch: str) -> np.ndarray:
        """Read the window ``NAME/ROW/COLUMN``: uint8, shape (C, S, S)."""
        row, column = map(int, patch.rsplit("/", 2)[1:])
        pixels, _ = self._read_rectangle(range(row, row + 1), range(column, column + 1))
        return self.transform.to_picture(pixels)

    def fingerprint(self) -> str:
        """Identify the files by path, size and time of change, and the division."""
        states = [(str(path.resolve()), path.stat()) for path in self._files]
        files = [(path, state.st_size, state.st_mtime_ns) for path, state in states]
        return repr((files, self.flags, self._bands))

    def _open(self) -> DatasetReader:
        """Return the raster of this thread, which has one open at a time."""
        if getattr(_held, "owner", None) is not self:
            import rasterio
            from rasterio.errors import RasterioIOError

            _close()
            _held.env = rasterio.Env(**_NO_SIDECARS)
            _held.env.__enter__()  # belongs to the thread
            driver = _DRIVERS[self.path.suffix.lower()]
            try:
                _held.file = open_quietly(self.path, driver)
            except RasterioIOError as error:
                raise UserError(
                    f"{self.path} is not a readable raster ({quoted(str(error), 200)}): give a "
                    "GeoTIFF, or a VRT of GeoTIFFs"
                ) from error
            _held.owner = self
        return _held.file

    def _corners(self, cells: np.ndarray) -> np.ndarray:
        """Return the corners of windows, (N, 2) rows and columns of the grid, in degrees."""
        sides = np.full_like(cells, self.flags.patch_size)
        boxes = np.concatenate([cells[:, ::-1] * self.flags.stride, sides], axis=1)
        return corners_of(*place_of(self._open()), boxes / self.scale)

    def _read_rectangle(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """Read windows that are next to each other, in pixels of the encoder.

        Returns:
            Stored values, shape (C, H, W), and whether a pixel holds data, shape (H, W).
        """
        from rasterio.enums import MaskFlags, Resampling
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        size, stride = self.flags.patch_size, self.flags.stride
        height, width = ((len(each) - 1) * stride + size for each in (rows, columns))
        window = Window(
            *(at * stride / self.scale for at in (columns[0], rows[0])),
            *(side / self.scale for side in (width, height)),
        )
        how = {"window": window, "out_shape": (height, width)}
        method = Resampling.average if self.scale < 1 else Resampling.bilinear
        try:
            file = self._open()
            pixels = file.read(self._bands, resampling=method, **how)
            if all(MaskFlags.all_valid in flags for flags in file.mask_flag_enums):
                # In Sentinel-2's products and in mosaics, pixels outside are 0 in all bands.
                return pixels, pixels.any(0)
            return pixels, file.dataset_mask(resampling=Resampling.nearest, **how) > 0
        except (RasterioError, OSError) as error:
            raise UserError(
                f"{self.path} cannot be read near column {window.col_off:.0f}, row "
                f"{window.row_off:.0f} ({quoted(str(error), 200)}): copy or download it again"
            ) from error

    def _grid_transform(self, transform: Affine | None) -> tuple[float, ...]:
        """Return the transform of the grid, whose cells are centred in their patches."""
        size, stride = self.flags.patch_size, self.flags.stride
        step, first = stride / self.scale, (size - stride) / 2 / self.scale
        a, b, c, d, e, f = tuple(transform or _IDENTITY)[:6]
        corner = (a + b) * first + c, (d + e) * first + f
        return a * step, b * step, corner[0], d * step, e * step, corner[1]

    def _divide(self, file: DatasetReader, shape: tuple[int, int]) -> list[tuple[range, range]]:
        """Divide the grid into blocks, so that few blocks of the file are decoded twice."""
        step = self.flags.stride / self.scale  # in pixels of the raster
        height, width = file.block_shapes[0]
        patch_bytes = len(self._bands) * self.flags.patch_size**2
        most = max(1, min(_PATCHES_PER_BLOCK, _BLOCK_BYTES // patch_bytes))
        rows = min(max(1, round(height / step)), most)
        columns = max(1, round(width / step), most // rows)
        return [
            (of_rows, of_columns)
            for of_rows in spans(shape[0], rows)
            for of_columns in spans(shape[1], min(columns, max(1, 4 * most // rows)))
        ]

    def _check_unit(self, cells: np.ndarray) -> None:
        """Refuse values that are not digital numbers, if some windows, (N, 2), show it."""
        windows = (
            self._read_rectangle(range(row, row + 1), range(column, column + 1))
            for row, column in cells.tolist()
        )
        samples = [pixels[:, is_valid] for pixels, is_valid in windows if is_valid.any()]
        if len(samples) == _NUM_SAMPLES:  # fewer may all be dark
            check_dn(samples, str(self.path))

    def _check_resolution(self, file: DatasetReader, spec: InputSpec) -> None:
        """Refuse a resolution that the encoder has not seen, unless --scale was given.

        What the file does not say is taken for granted, with a warning.
        """
        found = pixel_m(*place_of(file), file.height)
        is_compared = self.flags.scale is None and spec.unit == "reflectance"
        if not self.is_placed:
            is_taken = is_compared and np.isnan(found)
            also = f", and its pixels are taken for those of {_TRAINED_M:g} m" if is_taken else ""
            warnings.warn(
                f"the place of {self.path} on Earth is unknown (its coordinate system or transform "
                f"is missing or local): its patches are written without positions{also}",
                stacklevel=2,
            )
        if is_compared and abs(found / _TRAINED_M - 1) > _TOLERANCE:
            raise UserError(
                f"{self.path} has pixels of {found:.3g} m, but the encoder was trained on "
                f"{_TRAINED_M:g} m: add --scale {found / _TRAINED_M:.4g} to resample it, or "
                "--scale 1 to take the pixels as they are"
            )


def _grid_shape(
    file: DatasetReader, path: Path, flags: RasterFlags, scale: float
) -> tuple[int, int]:
    """Return rows and columns of the grid."""
    height, width = (int(side * scale + 1e-6) for side in (file.height, file.width))
    if min(height, width) < flags.patch_size:
        raise UserError(
            f"{path} has {width} x {height} px of the encoder, fewer than one patch of "
            f"{flags.patch_size}: lower --patch_size, or raise --scale"
        )
    rows, columns = ((side - flags.patch_size) // flags.stride + 1 for side in (height, width))
    if rows * columns > _MOST_PATCHES:
        raise UserError(
            f"{path} has {rows * columns:,} patches, more than {_MOST_PATCHES:,}: raise --stride, "
            "or cut it"
        )
    return rows, columns
