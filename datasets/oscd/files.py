"""Find and read the images and change maps of OSCD's cities.

The archives unpack to "Onera Satellite Change Detection dataset - Images", "... - Train Labels" and
"... - Test Labels"; many users, the original SeCo among them, merge the three into one folder. Both
are found, up to two folders below the root:

    <city>/imgs_1_rect/B02.tif     bands of date 1, all on the 10 m grid of date 1; imgs_2_rect too
    <city>/imgs_1/*_B02.tif        the same at native resolution, date 2 on a grid of its own
    <city>/cm/cm.png               change map: 0, and 255 where something changed
    <city>/cm/<city>-cm.tif        the same: 1, and 2 where something changed
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from datasets.bands import check_dn, two_digit_name
from utils.errors import UserError
from utils.files import is_hidden
from utils.images import IMAGE_ERRORS
from utils.input_spec import InputTransform

Array = NDArray[Any]
DEPTHS = ("", "*/", "*/*/")  # below the root, the shallowest first
_WHITE = 127  # cm.png holds 0 and 255; grey values of a resampled copy are rounded


@dataclass(frozen=True)
class City:
    """Both dates of a city, and what changed.

    Attributes:
        name: As OSCD spells it.
        image_1: Picture of the first date, uint8, shape (C, H, W).
        image_2: Picture of the second date, uint8, shape (C, H, W).
        mask: Whether a pixel changed, bool, shape (H, W).
        crs: Coordinate reference system of the pixels, None if the files have none.
        transform: From column and row to its coordinates, None if the files have none.
    """

    name: str
    image_1: Array
    image_2: Array
    mask: Array
    crs: CRS | None
    transform: Affine | None


@dataclass(frozen=True)
class CityFolders:
    """Folder of a city's images, and that of its change map if there is one."""

    images: Path
    labels: Path | None


def find_cities(data_dir: Path) -> dict[str, CityFolders]:
    """Find the folders of every city that has images, by name, sorted."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir} is not a folder: name the one with OSCD's archives")
    images = _folders_with(data_dir, "imgs_1") | _folders_with(data_dir, "imgs_1_rect")
    labels = _folders_with(data_dir, "cm")
    if not images:
        raise UserError(
            f"{data_dir} holds no OSCD city, a folder with imgs_1_rect: name the folder into which "
            '"Onera Satellite Change Detection dataset - Images.zip" was unpacked'
        )
    return {name: CityFolders(images[name], labels.get(name)) for name in sorted(images)}


def read_cities(
    data_dir: Path, names: Sequence[str], transform: InputTransform, *, aligned: bool = True
) -> list[City]:
    """Read cities into memory as the transform's encoder sees them; the 24 take 20 MB per band.

    Args:
        data_dir: Folder of the data set.
        names: Names of the cities.
        transform: Chooses bands and stretch.
        aligned: Whether to read ``imgs_*_rect``, where one pixel is one place on both dates and in
            the change map: another size is then an error. Else ``imgs_*``, as the original, where
            the size of date 1 counts, and what the others lack is 0.
    """
    found = find_cities(data_dir)
    return [_read_city(name, found[name], transform, aligned=aligned) for name in names]


def _read_city(
    name: str, folders: CityFolders, transform: InputTransform, *, aligned: bool
) -> City:
    suffix = "_rect" if aligned else ""
    stacks = [_read_bands(folders.images / f"imgs_{n}{suffix}", transform.bands) for n in (1, 2)]
    images = [transform.to_picture(stack) for stack in stacks]
    mask, mask_path = _read_mask(name, folders)
    height, width = images[0].shape[1:]
    if aligned:
        for what, found in ((f"imgs_2{suffix}", images[1].shape[1:]), (mask_path, mask.shape)):
            if found != (height, width):
                raise UserError(
                    f"{name}: {what} has {found[1]} x {found[0]} px, but imgs_1{suffix} {width} x "
                    f"{height}: use the files of one version of OSCD"
                )
    else:
        images[1] = _fit(images[1], height, width)
        mask = _fit(mask[None], height, width)[0]
    paths = [_band_path(folders.images / f"imgs_1{suffix}", transform.bands[0])]
    paths.append(mask_path.with_name(f"{name}-cm.tif"))
    return City(name, images[0], images[1], mask, *_read_georeference(paths))


def _read_mask(name: str, folders: CityFolders) -> tuple[Array, Path]:
    """Read whether each pixel changed, bool of shape (H, W), and return the file it comes from."""
    if folders.labels is None:
        raise UserError(
            f"the change map of {name} is missing: unpack OSCD's Train Labels and Test Labels "
            "next to its Images"
        )
    picture, raster = folders.labels / "cm/cm.png", folders.labels / f"cm/{name}-cm.tif"
    if not picture.exists() and raster.exists():
        band = _read_band(raster)
        if not np.isin(band, (1, 2)).all():
            raise UserError(f"{raster} has other values than 1 and 2: unpack OSCD's labels again")
        return band == 2, raster
    try:
        with Image.open(picture) as image:  # grey, palette, RGB or RGBA
            grey = np.asarray(image.convert("L"))
    except IMAGE_ERRORS as error:
        state = "is not a readable picture" if picture.exists() else "is missing"
        raise UserError(f"{picture} {state}: unpack OSCD's labels again") from error
    if 0 < grey.max() <= _WHITE:
        raise UserError(
            f"{picture} has values up to {grey.max()}, but a change map has 0 and 255: unpack "
            "OSCD's labels again"
        )
    return grey > _WHITE, picture


def _folders_with(data_dir: Path, child: str) -> dict[str, Path]:
    """Map the names of folders that hold ``child`` to the shallowest such folder."""
    found: dict[str, Path] = {}
    for depth in DEPTHS:
        for path in visible(data_dir, f"{depth}*/{child}"):
            found.setdefault(path.parent.name, path.parent)
    return found


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the sorted matches of a pattern without hidden ones, such as macOS's ._B04.tif."""
    matches = sorted(folder.glob(pattern))
    return [path for path in matches if not is_hidden(path.relative_to(folder).as_posix())]


def _read_bands(folder: Path, bands: Sequence[str]) -> Array:
    """Read the digital numbers of bands of one size, uint16, shape (C, H, W)."""
    planes = [_read_dn(_band_path(folder, band), band) for band in bands]
    for band, plane in zip(bands, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise UserError(
                f"{folder} has {bands[0]} in {planes[0].shape[1]} x {planes[0].shape[0]} px, but "
                f"{band} in {plane.shape[1]} x {plane.shape[0]}: take bands of one resolution, "
                "only imgs_*_rect have all of them in 10 m"
            )
    return np.stack(planes)


def _band_path(folder: Path, band: str) -> Path:
    """Find the file of a band, such as B02.tif, B2.TIF or S2A_..._B02.tif."""
    name = re.compile(rf"(.+_)?B0?{band[1:]}\.tiff?", re.IGNORECASE)
    paths = [path for path in visible(folder, "*") if name.fullmatch(path.name)]
    if not paths:
        raise UserError(f"{folder} has no {two_digit_name(band)}.tif: unpack OSCD's Images again")
    return min(paths, key=lambda path: len(path.name))  # B02.tif rather than one with a prefix


@contextmanager
def _open(path: Path) -> Iterator[DatasetReader]:
    """Open a GeoTIFF, with coordinates or not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as file:
                yield file
    except RasterioError as error:
        raise UserError(f"{path} is not a readable GeoTIFF: unpack OSCD again") from error


def _read_band(path: Path) -> Array:
    """Read a single-band GeoTIFF: (H, W)."""
    with _open(path) as file:
        return np.asarray(file.read(1))


def _read_dn(path: Path, name: str) -> Array:
    """Read the digital numbers of a band as uint16, (H, W).

    Resampled copies may be of any type of more than 8 bits. Values in another unit are a
    ``UserError``.
    """
    band = _read_band(path)
    if np.iscomplexobj(band) or band.dtype.itemsize == 1:
        kind = "complex" if np.iscomplexobj(band) else "8-bit"
        raise UserError(
            f"{path} holds {kind} values, but OSCD stores digital numbers (10,000 times "
            "reflectance) as uint16: unpack OSCD again"
        )
    check_dn([band], str(path), name)
    if band.dtype == np.uint16:
        return band
    return np.clip(np.rint(np.nan_to_num(band)), 0, 65_535).astype(np.uint16)


def _fit(planes: Array, height: int, width: int) -> Array:
    """Crop (C, h, w) to the top left corner, or fill it up with 0: (C, height, width)."""
    fitted = np.zeros((len(planes), height, width), planes.dtype)
    part = planes[:, :height, :width]
    fitted[:, : part.shape[1], : part.shape[2]] = part
    return fitted


def _read_georeference(paths: Sequence[Path]) -> tuple[CRS | None, Affine | None]:
    """Return the georeference of the first file that has one."""
    for path in paths:
        if path.exists():
            with _open(path) as file:
                if file.crs is not None:
                    return file.crs, file.transform
    return None, None
