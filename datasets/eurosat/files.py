"""Find, label and decode the pictures of EuroSAT, in a zip or a folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets.archive import ZipFiles
from datasets.bands import EUROSAT_BANDS
from datasets.geotiff.reader import read_geotiff
from utils.errors import UserError, listed
from utils.files import is_hidden, read_file
from utils.images import bit_depth, read_image

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
_BANDS_SUFFIXES = (".tif", ".tiff")
_SUFFIXES = (".jpg", ".jpeg", ".png", *_BANDS_SUFFIXES)
_MAX_SIDE_PX = 1024  # of a picture; those of the archives have 64


class SmallFiles:
    """A zip or a folder, ``path``, whose files are read by name, from any thread."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir() and not path.is_file():  # /dev/zero would be read forever
            raise UserError(f"{path} is neither a zip nor a folder of EuroSAT: name one of them")
        self.path = path
        self._zip = None if path.is_dir() else ZipFiles(path)
        self._members = dict(self._zip.members()) if self._zip else {}

    def below(self, root: str) -> list[str]:
        """List the names below a root, in a folder up to one folder below it, without the root."""
        patterns = () if self._zip else (f"{root}*", f"{root}*/*")
        paths = (path for pattern in patterns for path in self.path.glob(pattern))
        names = [*self._members, *(path.relative_to(self.path).as_posix() for path in paths)]
        return [name.removeprefix(root) for name in names if name.startswith(root)]

    def read(self, name: str) -> bytes:
        """Read a file; ``FileNotFoundError`` without one, ``ValueError`` if it is damaged."""
        is_file = name in self._members if self._zip else (self.path / name).is_file()
        if not is_file:  # a folder, or a pipe, whose reading would wait forever
            raise FileNotFoundError(name)
        return self._zip.read(self._members[name]) if self._zip else read_file(self.path / name)


def find_pictures(files: SmallFiles) -> tuple[str, list[str]]:
    """Find the prefix of the class folders, one of ``ROOTS``, and ``<Class>/<file>``, sorted.

    Raises:
        UserError: There are no class folders, or others next to them.
    """
    root, names = find_folders(files)
    folders = set(map(class_of, names))
    if folders & set(CLASSES) and folders - set(CLASSES):
        raise UserError(
            f"{files.path} has pictures in {listed(sorted(folders - set(CLASSES)))} next to "
            f"EuroSAT's classes {' '.join(CLASSES)}: remove the other folders, or rename these"
        )
    return root, names


def find_folders(files: SmallFiles) -> tuple[str, list[str]]:
    """Find what ``find_pictures`` does, also where there are folders next to the classes.

    Args:
        files: Zip or folder.

    Raises:
        UserError: There are no class folders.
    """
    found = {root: sorted(filter(is_picture, files.below(root))) for root in ROOTS}
    found = {root: names for root, names in found.items() if len(set(map(class_of, names))) > 1}
    archives = [root for root in found if root]
    if len(archives or found) != 1:
        raise UserError(
            f"{files.path} has {' and '.join(archives) or 'no'} class folders with JPEG, PNG or "
            "TIFF pictures: name a zip of EuroSAT, the folder of its classes or the parent of that "
            "folder"
        )
    return next(iter(found.items()))  # "" is the last one


def label_pictures(names: Sequence[str]) -> tuple[tuple[str, ...], torch.Tensor]:
    """Return the classes, the ten or a user's own, and the label of each picture, int64, (N,).

    A part of EuroSAT, without some of its classes, keeps the ten labels. Unlike the original: see
    docs/differences.md, eurosat-classes.
    """
    folders = set(map(class_of, names))
    classes = CLASSES if folders <= set(CLASSES) else tuple(sorted(folders))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, torch.tensor([label_of[class_of(name)] for name in names])


def is_geotiff(name: str) -> bool:
    """Return whether a file holds the 13 bands, not an RGB picture."""
    return name.lower().endswith(_BANDS_SUFFIXES)


def read_picture(
    files: SmallFiles, path: str, channels: Sequence[int], *, geotiff: bool
) -> np.ndarray:
    """Read some channels of a picture; another format, type or size is a ``UserError``.

    Args:
        files: Zip or folder.
        path: Name of the picture in it.
        channels: Positions in red, green, blue or in ``EUROSAT_BANDS``.
        geotiff: Whether a GeoTIFF of 13 bands is expected, else an RGB picture.

    Returns:
        uint8 of RGB or uint16 digital numbers, shape (len(channels), H, W).
    """
    try:
        data = files.read(path)
        if geotiff:
            return read_geotiff(data, path, _check_bands)[list(channels)]
        image = read_image(data, "RGB", partial(_check_rgb, data), ("JPEG", "PNG"))
        return np.asarray(image).transpose(2, 0, 1)[list(channels)]
    except (OSError, ValueError) as error:
        kind = "8-bit RGB as JPEG or PNG"
        if geotiff:
            kind = f"{len(EUROSAT_BANDS)} bands of uint16 (10,000 times reflectance) as GeoTIFF"
        raise UserError(
            f"{path} in {files.path} is not a readable picture of {kind}, at most {_MAX_SIDE_PX} "
            "px wide and high: replace it"
        ) from error


def _check_rgb(data: bytes, image: Image.Image) -> None:
    if image.mode != "RGB" or bit_depth(image, data) != 8 or max(image.size) > _MAX_SIDE_PX:
        raise ValueError(f"{image.mode}, {image.size} px")


def _check_bands(count: int, dtype: str, shape: tuple[int, int]) -> None:
    if (count, dtype) != (len(EUROSAT_BANDS), "uint16") or max(shape) > _MAX_SIDE_PX:
        raise ValueError(f"{count} bands of {dtype}, {shape} px")


def is_picture(name: str) -> bool:
    """Return whether a name is ``<Class>/<file>`` of a visible picture that a list can name."""
    is_visible = name.count("/") == 1 and not is_hidden(name) and name.isprintable()
    return is_visible and name.lower().endswith(_SUFFIXES)


def class_of(name: str) -> str:
    """Return the folder of ``<Class>/<file>``."""
    return name.split("/")[0]
