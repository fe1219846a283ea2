"""Find, list and read the images and change maps of OSCD's cities.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.bands import check_dn, two_digit_name
from datasets.geotiff.plain import read_georeference
from datasets.geotiff.reader import MAX_BYTES, one_band, read_geotiff
from datasets.geotiff.writer import Tags
from datasets.oscd.facts import TEST_CITIES, TRAIN_CITIES
from utils.errors import UserError
from utils.files import is_hidden, read_file, read_list
from utils.images import read_image
from utils.input_spec import InputTransform

Array = NDArray[Any]
_WHITE = 127  # cm.png holds 0 and 255; grey values of a resampled copy are rounded
_VALIDATION_EVERY = 4


@dataclass(frozen=True)
class City:
    """Both dates of a city, and what changed.

    Attributes:
        name: As OSCD spells it.
        image_1: Picture of the first date, uint8, shape (C, H, W).
        image_2: Picture of the second date, uint8, shape (C, H, W).
        mask: Whether a pixel changed, bool, shape (H, W).
        georeference: Tags of the GeoTIFF that tell where the pixels are; empty without any.
    """

    name: str
    image_1: Array
    image_2: Array
    mask: Array
    georeference: Tags


def find_cities(data_dir: Path) -> dict[str, Path]:
    """Find the folder of images of every city, by name.

    Raises:
        UserError: There is none.
    """
    found = folders_with(data_dir, "imgs_1") | folders_with(data_dir, "imgs_1_rect")
    if not found:
        raise UserError(
            f"{data_dir} holds no OSCD city, a folder with imgs_1_rect: name the folder into which "
            '"Onera Satellite Change Detection dataset - Images.zip" was unpacked'
        )
    return found


def listed_cities(data_dir: Path) -> dict[str, list[str]]:
    """Return the cities of the splits "train", "test" and "all", in the order of their lists.

    A list that is absent stands for the data set's own. A city in both lists, or one without
    images, is refused.

    Raises:
        UserError: A city is in both lists, or has no images.
    """
    found = find_cities(data_dir)
    splits = read_city_lists(data_dir, found)
    both = set(splits["train"]).intersection(splits["test"])
    if both:
        raise UserError(f"{min(both)} is in train.txt and in test.txt of {data_dir}: remove one")
    splits["all"] = splits["train"] + splits["test"]
    missing = sorted(set(splits["all"]) - set(found))
    if missing:
        raise UserError(
            f"{len(missing)} of OSCD's cities have no images in {data_dir}: "
            f"{', '.join(missing[:5])}: add them, or write the cities that you have into train.txt "
            "and test.txt"
        )
    return splits


def read_city_lists(data_dir: Path, found: Iterable[str]) -> dict[str, list[str]]:
    """Return the cities in the lists of train and test, or those of the data set without a list.

    Args:
        data_dir: Folder of the data set.
        found: Names of the cities that have images.
    """
    splits = {"train": list(TRAIN_CITIES), "test": list(TEST_CITIES)}
    known = {*TRAIN_CITIES, *TEST_CITIES, *found}
    for split in splits:
        for path in _visible(data_dir, f"{split}.txt"):
            text = read_list(read_file(path), path).replace(",", "\n")
            names = list(dict.fromkeys(name.strip() for name in text.splitlines() if name.strip()))
            if not names or known.intersection(names):
                splits[split] = names
                break
            warnings.warn(f"{path} is ignored: it names none of OSCD's cities", stacklevel=3)
    return splits


def city_splits(data_dir: Path) -> dict[str, list[str]]:
    """Return the names of the cities to train, validate and test on, each sorted.

    Of the training cities in alphabetical order the 4th, 8th, 12th and so on are for validation (of
    fewer than four, the last): beirut, hongkong and pisa of the real ones.

    Raises:
        UserError: The lists name too few cities.
    """
    lists = listed_cities(data_dir)
    train, test = sorted(lists["train"]), sorted(lists["test"])
    if len(train) < 2 or not test:
        raise UserError(
            f"train.txt and test.txt of {data_dir} name {len(train)} and {len(test)} cities, but "
            "at least two to train and validate and one to test are needed"
        )
    val = train[_VALIDATION_EVERY - 1 :: _VALIDATION_EVERY] or train[-1:]
    return {"train": [name for name in train if name not in val], "val": val, "test": test}


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

    Raises:
        UserError: A change map is missing, or the sizes of a city's files differ.
    """
    images, labels = find_cities(data_dir), folders_with(data_dir, "cm")
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(
            f"the change map of {missing[0]} is missing: unpack OSCD's Train Labels and Test "
            "Labels next to its Images"
        )
    cities = []
    for name in names:
        map_path = labels[name] / f"cm/{name}-cm.tif"
        mask = _read_mask(labels[name] / "cm/cm.png", map_path)
        folders = [images[name] / f"imgs_{date}{'_rect' * aligned}" for date in (1, 2)]
        first, second = (
            transform.to_picture(_read_bands(each, transform.bands)) for each in folders
        )
        size = first.shape[1:]
        if aligned and (second.shape[1:] != size or mask.shape != size):
            raise UserError(
                f"{name}: imgs_2_rect has {_px(second)} and the change map {_px(mask)}, but "
                f"imgs_1_rect {_px(first)}: use the files of one version of OSCD"
            )
        second, mask = _fit(second, size), _fit(mask[None], size)[0]
        paths = (_band_path(folders[0], transform.bands[0]), map_path)
        cities.append(City(name, first, second, mask, _read_georeference(paths)))
    return cities


def _read_mask(picture: Path, raster: Path) -> Array:
    """Read whether each pixel changed, from the PNG or else the GeoTIFF: bool, (H, W)."""
    try:
        if picture.exists() or not raster.exists():
            values = np.asarray(read_image(read_file(picture), "L"))  # grey, palette, RGB or RGBA
            if not 0 < values.max() <= _WHITE:
                return values > _WHITE
        else:
            values, picture = _read_band(raster), raster
            if np.isin(values, (1, 2)).all():
                return values == 2
    except (OSError, ValueError) as error:
        raise UserError(
            f"{picture} is missing or not a readable picture: unpack OSCD's labels again"
        ) from error
    raise UserError(
        f"{picture} has values up to {values.max()}, but a change map has 0 and 255 as a PNG, or 1 "
        "and 2 as a GeoTIFF: unpack OSCD's labels again"
    )


def folders_with(data_dir: Path, child: str) -> dict[str, Path]:
    """Map the names of folders that hold ``child`` to the shallowest such folder.

    Args:
        data_dir: Folder of the data set, searched up to two folders below it.
        child: Name of a folder in that of a city.
    """
    found: dict[str, Path] = {}
    for path in _visible(data_dir, f"*/{child}"):
        found.setdefault(path.parent.name, path.parent)
    return found


def _visible(root: Path, pattern: str) -> list[Path]:
    """Match a pattern in a folder and up to two below it, without hidden files."""
    matches = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(depth + pattern))]
    return [path for path in matches if not is_hidden(path.relative_to(root).as_posix())]


def _read_bands(folder: Path, bands: Sequence[str]) -> Array:
    """Read the digital numbers of bands of one size, uint16, shape (C, H, W)."""
    planes = [_read_dn(_band_path(folder, band), band) for band in bands]
    for band, plane in zip(bands, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise UserError(
                f"{folder} has {bands[0]} in {_px(planes[0])}, but {band} in {_px(plane)}: take "
                "bands of one resolution, only imgs_*_rect have all of them in 10 m"
            )
    return np.stack(planes)


def _band_path(folder: Path, band: str) -> Path:
    """Find the file of a band, such as B02.tif, B2.TIF or S2A_..._B02.tif."""
    name = re.compile(rf"([^.].*_)?B0?{band[1:]}\.tiff?", re.IGNORECASE)
    paths = [path for path in folder.glob("*") if name.fullmatch(path.name)]
    if not paths:
        raise UserError(f"{folder} has no {two_digit_name(band)}.tif: unpack OSCD's Images again")
    return min(paths, key=lambda path: (len(path.name), path))  # B02.tif rather than a longer one


def _read_band(path: Path) -> Array:
    """Read a single-band GeoTIFF: (H, W)."""
    try:
        data = read_file(path, MAX_BYTES)
        return read_geotiff(data, str(path), partial(one_band, path))[0]
    except (OSError, ValueError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> UserError:
    return UserError(f"{path} is not a readable GeoTIFF: unpack OSCD again")


def _read_dn(path: Path, band: str) -> Array:
    """Read the digital numbers of a band as uint16, (H, W); resampled copies may be floats."""
    values = _read_band(path)
    if np.iscomplexobj(values) or values.dtype.itemsize == 1:
        raise UserError(
            f"{path} holds {values.dtype} values, but OSCD stores digital numbers (10,000 times "
            "reflectance) as uint16: unpack OSCD again"
        )
    check_dn([values], str(path), band)
    if values.dtype == np.uint16:
        return values
    if values.dtype.kind == "f":
        values = np.rint(np.nan_to_num(values, copy=False), out=values)
    return values.clip(0, 65_535).astype(np.uint16)


def _fit(planes: Array, size: tuple[int, ...]) -> Array:
    """Crop (C, h, w) to the top left corner, or fill it up with 0: (C, *size)."""
    fitted = np.zeros((len(planes), *size), planes.dtype)
    part = planes[:, : size[0], : size[1]]
    fitted[:, : part.shape[1], : part.shape[2]] = part
    return fitted


def _read_georeference(paths: Sequence[Path]) -> Tags:
    """Return the georeference of the first file that has one."""
    for path in filter(Path.exists, paths):
        try:
            if found := read_georeference(read_file(path, MAX_BYTES)):
                return found
        except OSError as error:
            raise _unreadable(path) from error
    return {}


def _px(planes: Array) -> str:
    return f"{planes.shape[-1]} x {planes.shape[-2]} px"
