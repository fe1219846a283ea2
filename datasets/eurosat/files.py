"""Find, label and decode the pictures of EuroSAT, in a zip or a folder."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from datasets.archive import MAX_MEMBER_BYTES, ZipFiles
from datasets.bands import EUROSAT_BANDS
from utils.errors import UserError, listed
from utils.files import is_hidden
from utils.images import IMAGE_ERRORS, bit_depth

# Folders of the archives: RGB of 2023 and of 2018, 13 bands of 2023 and of 2018; "" stands for
# class folders without a parent.
ROOTS = (
    *("EuroSAT_RGB/", "2750/", "EuroSAT_MS/"),
    *("ds/images/remote_sensing/otherDatasets/sentinel_2/tif/", ""),
)
# Helber et al. 2019, table 2, as the archives spell them; label i means the i-th.
CLASSES = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
    *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
)

_RGB_SUFFIXES = (".jpg", ".jpeg", ".png")
_BANDS_SUFFIXES = (".tif", ".tiff")
_SUFFIXES = _RGB_SUFFIXES + _BANDS_SUFFIXES
_MAX_SIDE_PX = 1024  # of a picture; those of the archives have 64
# Coordinates are not needed, and reading them would double the time.
_GEOTIFF = {"driver": "GTiff", "GEOREF_SOURCES": "NONE"}


class SmallFiles:
    """A zip or a folder whose files are read by name, from any thread.

    Attributes:
        path: The zip or folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UserError(f"{path} does not exist: name a zip or folder of EuroSAT")
        if not path.is_dir() and not path.is_file():  # /dev/zero would be read forever
            raise UserError(f"{path} is neither a zip nor a folder of EuroSAT: name one of them")
        self.path = path
        self._zip = None if path.is_dir() else ZipFiles(path)
        self._members = dict(self._zip.members()) if self._zip else {}

    def below(self, root: str) -> list[str]:
        """List the names one folder below a root, with ``/`` between folders."""
        if self._zip:
            return [name for name in self._members if name.startswith(root)]
        return [path.relative_to(self.path).as_posix() for path in self.path.glob(f"{root}*/*")]

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: No file has this name.
            ValueError: It is damaged, far too large or not a regular file.
        """
        if self._zip:
            if name not in self._members:
                raise FileNotFoundError(name)
            return self._zip.read(self._members[name])
        path = self.path / name
        if path.exists() and not path.is_file():  # reading a pipe would wait forever
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_MEMBER_BYTES + 1)
        if len(data) > MAX_MEMBER_BYTES:
            raise ValueError("too large for a picture")
        return data


def find_pictures(files: SmallFiles) -> tuple[str, list[str]]:
    """Find the class folders, and ``<Class>/<file>`` of every picture in them, sorted.

    Returns:
        Prefix of the class folders, one of ``ROOTS``, and the names below it.
    """
    found = {root: sorted(_class_files(files.below(root), root)) for root in ROOTS}
    found = {
        root: names
        for root, names in found.items()
        if len({name.split("/")[0] for name in names}) > 1
    }
    if not found:
        raise UserError(
            f"{files.path} has no class folders with JPEG, PNG or TIFF pictures: name a zip of "
            "EuroSAT, the folder of its classes or the parent of that folder"
        )
    archives = [root for root in found if root]
    if len(archives) > 1:
        raise UserError(f"{files.path} holds {archives[0]} and {archives[1]}: name one of them")
    root = next(iter(found))  # "" is the last one
    names = found[root]
    _check_classes(names, files.path)
    odd = [name for name in names if not name.isprintable()]
    if odd:  # no list of a split could name it, nor a terminal show it
        raise UserError(f"{files.path} has a file name with odd characters, {odd[0]!a}: rename it")
    if len({is_geotiff(name) for name in names}) > 1:
        raise UserError(
            f"{files.path} mixes RGB pictures and GeoTIFFs, such as {names[0]} and "
            f"{next(n for n in names if is_geotiff(n) != is_geotiff(names[0]))}: keep one kind"
        )
    return root, names


def label_pictures(names: Sequence[str]) -> tuple[tuple[str, ...], torch.Tensor]:
    """Number the class folders in alphabetical order.

    A part of EuroSAT, without some of its classes, keeps the ten labels. Unlike the original: see
    docs/differences.md, eurosat-classes.

    Args:
        names: ``<Class>/<file>`` of the pictures, N of them.

    Returns:
        Names of the classes, the ten or a user's own, and the label of every picture, int64, (N,).
    """
    folders = [name.split("/")[0] for name in names]
    classes = CLASSES if set(folders) <= set(CLASSES) else tuple(sorted(set(folders)))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, torch.tensor([label_of[folder] for folder in folders])


@contextmanager
def without_georeference() -> Iterator[None]:
    """Silence rasterio on GeoTIFFs without coordinates; to be entered outside of threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def is_geotiff(name: str) -> bool:
    """Return whether a file holds the 13 bands, not an RGB picture."""
    return name.lower().endswith(_BANDS_SUFFIXES)


def _class_files(paths: Sequence[str], root: str) -> Iterator[str]:
    """Yield ``<Class>/<file>`` of the pictures exactly one folder below ``root``."""
    for path in paths:
        parts = path.removeprefix(root).split("/")
        name = "/".join(parts)
        if len(parts) == 2 and not is_hidden(name) and name.lower().endswith(_SUFFIXES):
            yield name


def _check_classes(names: Sequence[str], path: Path) -> None:
    """Refuse a mixture of EuroSAT's classes and others; a user's own classes are allowed."""
    folders = dict.fromkeys(name.split("/")[0] for name in names)
    strangers = [folder for folder in folders if folder not in CLASSES]
    if strangers and len(strangers) < len(folders):
        known = next(folder for folder in folders if folder in CLASSES)
        raise UserError(
            f"{path} has pictures in {listed(strangers)} next to {known}, but EuroSAT's ten "
            f"classes are {' '.join(CLASSES)}: remove the other folders, or rename {known} if the "
            "classes are your own"
        )


def read_picture(files: SmallFiles, path: str, channels: Sequence[int]) -> np.ndarray:
    """Read some channels of a picture; another type or size is a ``UserError``.

    Args:
        files: Zip or folder.
        path: Name of the picture in it.
        channels: Positions in red, green, blue or in ``EUROSAT_BANDS``.

    Returns:
        uint8 of RGB or uint16 digital numbers, shape (len(channels), H, W).
    """
    where = f"{path} in {files.path}"
    try:
        data = files.read(path)
        return (_read_geotiff if is_geotiff(path) else _read_rgb)(data, channels, where)
    except (*IMAGE_ERRORS, RasterioError) as error:
        raise UserError(f"{where} is not a readable picture: replace it") from error


def _read_rgb(data: bytes, channels: Sequence[int], where: str) -> np.ndarray:
    with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
        _check_size(image.width, image.height, where)
        if image.mode != "RGB" or bit_depth(image, data) != 8:
            raise UserError(f"{where} is a picture of mode {image.mode}, not 8-bit RGB: convert it")
        return np.asarray(image).transpose(2, 0, 1)[list(channels)]


def _read_geotiff(data: bytes, channels: Sequence[int], where: str) -> np.ndarray:
    if not data:
        raise ValueError("empty")  # rasterio would take it for a file to be written
    with MemoryFile(data) as memory, memory.open(**_GEOTIFF) as file:
        _check_size(file.width, file.height, where)
        if file.count != len(EUROSAT_BANDS) or set(file.dtypes) != {"uint16"}:
            raise UserError(
                f"{where} has {file.count} bands of {file.dtypes[0]}, EuroSAT's GeoTIFFs have "
                f"{len(EUROSAT_BANDS)} of uint16 (10,000 times reflectance): use these or "
                "the RGB pictures"
            )
        return file.read([channel + 1 for channel in channels])


def _check_size(width: int, height: int, where: str) -> None:
    if max(width, height) > _MAX_SIDE_PX:
        raise UserError(
            f"{where} has {width} x {height} px: pictures have at most {_MAX_SIDE_PX}, EuroSAT's 64"
        )
