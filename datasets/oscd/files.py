"""Where OSCD keeps the images and change maps of its cities, and how they are read.

The archives unpack to "Onera Satellite Change Detection dataset - Images", "... - Train Labels" and
"... - Test Labels"; many users, the original SeCo among them, merge the three into one folder. Both
are found, up to two folders below the root:

    <city>/imgs_1_rect/B02.tif     bands of date 1, all on the 10 m grid of date 1; imgs_2_rect too
    <city>/imgs_1/*_B02.tif        the same at native resolution, date 2 on a grid of its own
    <city>/cm/cm.png               change map: 0, and 255 where something changed
    <city>/cm/<city>-cm.tif        the same: 1, and 2 where something changed
"""

import warnings
from collections.abc import Container, Iterator, Sequence
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

from datasets.bands import check_dn
from utils.errors import UserError
from utils.files import is_hidden, read_list
from utils.images import IMAGE_ERRORS
from utils.input_spec import InputTransform

Array = NDArray[Any]
_DEPTHS = ("", "*/", "*/*/")  # below the root, the shallowest first
_WHITE = 127  # cm.png holds 0 and 255; grey, of a smoothed copy, is rounded


@dataclass(frozen=True)
class City:
    """Both dates of a city, and what changed.

    Attributes:
        name: As OSCD spells it.
        image_1: Picture of the first date, uint8, shape (C, H, W).
        image_2: Picture of the second date, uint8, shape (C, H, W).
        mask: Whether a pixel changed, bool, shape (H, W).
        crs: Coordinate reference system of the pixels, if the files tell it.
        transform: From column and row to its coordinates, if the files tell it.
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
        raise UserError(f"{data_dir} is no folder: --data_dir takes the one with OSCD's archives")
    images = _folders_with(data_dir, "imgs_1") | _folders_with(data_dir, "imgs_1_rect")
    labels = _folders_with(data_dir, "cm")
    if not images:
        raise UserError(
            f"{data_dir} holds no OSCD city, a folder with imgs_1_rect: --data_dir takes the "
            'folder into which "Onera Satellite Change Detection dataset - Images.zip" was unpacked'
        )
    return {name: CityFolders(images[name], labels.get(name)) for name in sorted(images)}


def read_city_list(data_dir: Path, split: str, known: Container[str]) -> list[str] | None:
    """Read ``<split>.txt``, names between commas or line ends; None where there is no such file.

    A list of another data set, which names none of the known cities, is ignored with a warning.
    """
    for depth in _DEPTHS:
        for path in _visible(data_dir, f"{depth}{split}.txt"):
            try:
                text = read_list(path.read_bytes(), path)
            except (UserError, OSError) as error:
                if path.parent == data_dir:
                    raise
                warnings.warn(f"a list is ignored: {error}", stacklevel=2)
                continue
            names = text.replace(",", "\n").split("\n")
            names = [name.strip() for name in names if name.strip()]
            if not names or any(name in known for name in names):
                return names
            warnings.warn(f"{path} is ignored: it names none of OSCD's cities", stacklevel=2)
    return None


def read_city(
    name: str, folders: CityFolders, transform: InputTransform, *, aligned: bool = True
) -> City:
    """Read a city as the transform's encoder sees it.

    Args:
        name: Of the city.
        folders: Where it lies.
        transform: Chooses bands and stretch.
        aligned: Whether to read ``imgs_*_rect``, where one pixel is one place on both dates and in
            the change map: another size is then an error. Else ``imgs_*``, as the original, where
            the size of date 1 counts, and what the others lack is 0.
    """
    suffix = "_rect" if aligned else ""
    stacks = [
        _read_bands(folders.images / f"imgs_{date}{suffix}", transform.bands) for date in (1, 2)
    ]
    pictures = [transform.to_picture(stack) for stack in stacks]
    mask, mask_path = read_mask(name, folders)
    height, width = pictures[0].shape[1:]
    if aligned:
        for what, found in ((f"imgs_2{suffix}", pictures[1].shape[1:]), (mask_path, mask.shape)):
            if found != (height, width):
                raise UserError(
                    f"{name}: {what} has {found[1]} x {found[0]} px, but imgs_1{suffix} {width} x "
                    f"{height}: take the files of one version of OSCD"
                )
    else:
        pictures[1] = _fit(pictures[1], height, width)
        mask = _fit(mask[None], height, width)[0]
    crs, georeference = _read_georeference(name, folders, suffix, transform.bands[0])
    return City(name, pictures[0], pictures[1], mask, crs, georeference)


def read_mask(name: str, folders: CityFolders) -> tuple[Array, Path]:
    """Read whether each pixel changed, bool of shape (H, W), and tell from which file."""
    if folders.labels is None:
        raise UserError(
            f"the change map of {name} is missing: unpack OSCD's Train Labels and Test Labels "
            "beside its Images"
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
        raise UserError(f"{picture} has values up to {grey.max()}, but a change map has 0 and 255")
    return grey > _WHITE, picture


def _folders_with(data_dir: Path, child: str) -> dict[str, Path]:
    """Map the names of folders that hold ``child`` to the shallowest such folder."""
    found: dict[str, Path] = {}
    for depth in _DEPTHS:
        for path in _visible(data_dir, f"{depth}*/{child}"):
            found.setdefault(path.parent.name, path.parent)
    return found


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Return the sorted matches of a pattern without hidden ones, such as macOS's ._B04.tif."""
    matches = sorted(folder.glob(pattern))
    return [path for path in matches if not is_hidden(path.relative_to(folder).as_posix())]


def _read_bands(folder: Path, bands: Sequence[str]) -> Array:
    """Read bands of one size as they are stored, shape (C, H, W)."""
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
    """Find the file of a band, such as B02.tif or S2A_..._B02.tif."""
    spelled = band if len(band) == 3 else f"B0{band[1:]}"
    paths = [*_visible(folder, f"{spelled}.tif"), *_visible(folder, f"*_{spelled}.tif")]
    if not paths:
        raise UserError(f"{folder} has no {spelled}.tif: unpack OSCD's Images again")
    return paths[0]


def _read_band(path: Path) -> Array:
    """Read a single-band GeoTIFF, shape (H, W)."""
    with _open(path) as file:
        return np.asarray(file.read(1))


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


def _read_georeference(
    name: str, folders: CityFolders, suffix: str, band: str
) -> tuple[CRS | None, Affine | None]:
    """Return the georeference of date 1; aligned bands without one lie as the change map does."""
    paths = [_band_path(folders.images / f"imgs_1{suffix}", band)]
    if folders.labels is not None:
        paths.append(folders.labels / f"cm/{name}-cm.tif")
    for path in paths:
        if path.exists():
            with _open(path) as file:
                if file.crs is not None:
                    return file.crs, file.transform
    return None, None
