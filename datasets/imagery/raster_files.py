"""What a GeoTIFF or VRT holds: its files, bands, unit and day."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from datasets.bands import short_name
from utils.errors import UserError, os_error_sentence, quoted
from utils.files import open_regular, read_file
from utils.input_spec import PICTURE_BANDS, DataSpec

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_MAX_VRT_BYTES = 2**26
# TIFF 6.0, and BigTIFF (www.awaresystems.be/imaging/tiff/bigtiff.html), in either byte order.
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_VRT_SOURCES = ("sourcefilename", "sourcedataset")  # gdal.org/en/stable/drivers/raster/vrt.html
# Of Sentinel-2 products and of Earth Engine's scenes: 20190405T103021.
_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)(\d\d)(\d\d)T\d{6}(?!\d)")


def files_of_raster(path: Path) -> list[Path]:
    """Return a raster and the files that a VRT shows.

    Raises:
        UserError: A VRT is damaged, or shows something that is not a GeoTIFF on a disk.
    """
    if path.suffix.lower() != ".vrt":
        return [path]
    try:
        root = ElementTree.fromstring(read_file(path, _MAX_VRT_BYTES))
    except (ElementTree.ParseError, ValueError) as error:
        remedy = "write it again with gdalbuildvrt"
        raise UserError(f"{path} is not a readable VRT: {remedy}") from error
    except OSError as error:
        raise UserError(os_error_sentence(error, path)) from error
    files = [path]
    for element in (each for each in root.iter() if each.tag.lower() in _VRT_SOURCES):
        name = element.text or ""
        flags = {key.lower(): value for key, value in element.attrib.items()}  # as GDAL compares
        is_relative = flags.get("relativetovrt") == "1"
        source = path.parent / name if is_relative else Path(name)
        is_local = not name.startswith("/vsi") and "://" not in name
        if not is_local or source.suffix.lower() not in (".tif", ".tiff"):
            raise UserError(
                f"{path} shows {quoted(name, 100)}, but only GeoTIFFs on a disk are read: copy "
                "them, and write the VRT again with gdalbuildvrt"
            )
        _check_tiff(path, source)
        files.append(source)
    return files


def _check_tiff(path: Path, source: Path) -> None:
    """Refuse a file of a VRT that is not a TIFF; GDAL would open it with any of its drivers."""
    try:
        with open_regular(source) as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(os_error_sentence(error, f"{path} shows {source}")) from error
    if start not in _TIFF_STARTS:
        raise UserError(f"{path} shows {source}, which is not a TIFF: write the VRT again")


def stored_values(file: DatasetReader, path: Path, names: Sequence[str] | None) -> DataSpec:
    """Describe the stored values by the type and the names of the bands.

    Args:
        file: The raster.
        path: Its path, for errors.
        names: Names of the bands in the order of the file; None for those in the file.

    Raises:
        UserError: The type is neither that of pictures nor that of reflectance, or a band has no
            name.
    """
    dtype = file.dtypes[0]
    if dtype not in ("uint8", "uint16") or len(set(file.dtypes)) > 1:
        raise UserError(
            f"{path} has bands of {' '.join(sorted(set(file.dtypes)))}, but pictures are uint8 and "
            "reflectance is uint16 (10,000 times reflectance): convert it, for example with "
            "gdal_translate -ot UInt16 -scale 0 1 0 10000"
        )
    found = [_band_name(text or "") for text in file.descriptions]
    if names is None and dtype == "uint8" and file.count in (3, 4):  # the fourth is alpha
        names = [*PICTURE_BANDS, "A"][: file.count]
    bands = tuple(names or found)
    if len(bands) != file.count or not all(bands) or len(set(bands)) < len(bands):
        given = " ".join(bands) if names else "no names in the file"
        raise UserError(
            f"{path} has {file.count} bands, and {given}: name each band once with --raster_bands, "
            "in the order of the file, such as B2 B3 B4 B8"
        )
    if dtype == "uint8":
        return DataSpec(str(path), bands, (0.0,) * len(bands), (255.0,) * len(bands), "picture")
    return DataSpec.of_reflectance(str(path), bands)


def _band_name(description: str) -> str:
    """Return B4 for B4 or B04, and the first word of other descriptions."""
    word = description.split()[0] if description.split() else ""
    return short_name(word) if re.fullmatch(r"B0?\d+A?", word) else word


def day_of_raster(file: DatasetReader, path: Path) -> str:
    """Return the day in the tags or in the name of a raster, such as 2019-04-05, or "".

    Args:
        file: The raster.
        path: Its path.
    """
    tag = str(file.tags().get("TIFFTAG_DATETIME", ""))  # 2019:04:05 10:30:21
    found = re.match(r"(\d{4}):(\d\d):(\d\d) ", tag) or _DAY.search(path.name)
    return "-".join(found.groups()) if found else ""
