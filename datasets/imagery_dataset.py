"""Any imagery as patches for an encoder: rasters, data sets, and folders of pictures.

patches = open_imagery(Path("scene.tif"), spec, RasterFlags())
block = patches.read(0)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datasets.archive import ZipFiles, is_zip
from datasets.bands import with_ndvi
from datasets.bigearthnet.facts import BIGEARTHNET_SPEC, IMAGE_SIZE
from datasets.bigearthnet.folder import PatchFolder
from datasets.bigearthnet.index import find_patches, is_bigearthnet, is_lmdb
from datasets.bigearthnet.pictures import patch_picture
from datasets.eurosat.files import CLASSES, is_geotiff
from datasets.eurosat_dataset import EurosatDataset
from datasets.imagery.many_rasters import ManyRasters
from datasets.imagery.rasters import SUFFIXES, RasterFlags, RasterWindows
from datasets.imagery.samples import SamplePatches
from datasets.oscd.facts import OSCD_DATA
from datasets.oscd.files import find_cities
from datasets.oscd.windows import CityWindows
from datasets.seco.bad_patches import BadPatchError, OnBadPatch
from datasets.seco.patches import SecoPatches, day_of
from datasets.seco.samples import digest_of_places
from datasets.store.open import open_patches
from utils.errors import UserError, quoted
from utils.files import is_hidden, read_file
from utils.images import bit_depth, read_image
from utils.input_spec import (
    BANDS_OF_LETTERS,
    PICTURE_BANDS,
    DataSpec,
    InputSpec,
    InputTransform,
    input_transform,
)
from utils.patch_blocks import PatchBlocks
from utils.stored_values import stored_bands

_LARGEST_PICTURE_PX = 2048  # of a file among others: larger ones are cut into windows
# Sensing time in names of Sentinel-2's products and their patches: S2A_MSIL2A_20170613T101031_0_45.
_SENSED = re.compile(r"_(\d{4})(\d\d)(\d\d)T\d{6}")


def open_imagery(
    data_dir: Path,
    spec: InputSpec,
    flags: RasterFlags,
    *,
    size: int | None = None,
    image_list: Path | None = None,
    on_bad_patch: OnBadPatch = "raise",
) -> PatchBlocks:
    """Detect what a path is, and open it for an encoder.

    Args:
        data_dir: A GeoTIFF or VRT or a folder of them; SeCo patches as folder, zip, packed store or
            LitData chunks; EuroSAT; BigEarthNet; OSCD; or any folder or zip of pictures.
        spec: What the encoder expects.
        flags: How rasters are divided into patches.
        size: Side in pixels to which separate patches are scaled; None keeps theirs.
        image_list: File that restricts the pictures, see ``Pictures``.
        on_bad_patch: Raise an error for a damaged or empty SeCo patch or picture, or leave it out.

    Raises:
        UserError: The data are damaged, or do not fit the encoder.
    """

    def convert(data: DataSpec) -> InputTransform:
        return input_transform(spec, data, "auto")

    rasters = _rasters(data_dir)
    if rasters:
        windows = [RasterWindows(path, flags, spec, convert) for path in rasters]
        return windows[0] if len(windows) == 1 else ManyRasters(windows)
    if is_bigearthnet(data_dir):
        return _bigearthnet(data_dir, convert(BIGEARTHNET_SPEC), size)
    if data_dir.is_dir() and _is_oscd(data_dir):
        return CityWindows(data_dir, convert(OSCD_DATA), flags.patch_size, flags.stride)
    if _is_eurosat_in_13_bands(data_dir):
        return _eurosat(data_dir, convert, size)
    return _patches(data_dir, spec, size, image_list, on_bad_patch)


def read_query(path: Path, patches: PatchBlocks) -> np.ndarray:
    """Read a JPEG or PNG as a patch of some imagery, uint8, shape (C, H, W).

    Args:
        path: An 8-bit picture.
        patches: Imagery, for an encoder of red, green and blue.

    Raises:
        UserError: The file is not such a picture.
    """
    transform = input_transform(patches.transform.spec, DataSpec.of_pictures(str(path)), "auto")
    blocks = (patches.read(block) for block in range(len(patches)))
    found = next((block for block in blocks if block.ids), None)
    if found is None:
        raise UserError(
            f"{patches.description} hold no data to search: choose other imagery, or raise "
            "--max_nodata"
        )
    size = found.pictures.shape[:1:-1]

    def check(image: Image.Image) -> None:
        if bit_depth(image, data) > 8:
            raise ValueError("not 8 bit")

    try:
        data = read_file(path)
        picture = read_image(data, "RGB", check, ("JPEG", "PNG"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--neighbours {quoted(str(path))} is neither a readable picture (JPEG or PNG, 8 bit), "
            "nor a row, nor LATITUDE,LONGITUDE: correct it"
        ) from error
    fitted = ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
    planes = np.asarray(fitted).transpose(2, 0, 1)
    return transform.to_picture(planes[[PICTURE_BANDS.index(band) for band in transform.bands]])


def _patches(
    data_dir: Path,
    spec: InputSpec,
    size: int | None,
    image_list: Path | None,
    on_bad_patch: OnBadPatch,
) -> SamplePatches:
    """Open what ``open_patches`` opens."""
    bands = tuple(BANDS_OF_LETTERS.get(band, band) for band in spec.bands)
    source = open_patches(data_dir, stored_bands(bands), image_list)
    if source.bands == PICTURE_BANDS:
        transform = input_transform(spec, DataSpec.of_pictures(str(data_dir)), "auto")
    else:  # 255 times reflectance, as in the pre-training
        own = spec if spec.unit == "reflectance" else with_ndvi(source.input_spec, bands)
        transform = InputTransform(bands, own.stretch_table().numpy(), spec)

    def read(patch: int) -> np.ndarray | None:
        try:
            return transform.to_picture(source.read(patch))
        except BadPatchError:
            if on_bad_patch == "raise":
                raise
            return None

    names = [source.name(patch) for patch in range(int(source.starts[-1]))]
    return SamplePatches(
        data_dir,
        names,
        read,
        transform,
        size,
        day=lambda patch: day_of(names[patch]),
        locate=source.band_bytes if isinstance(source, SecoPatches) else _nowhere,
        identity=_identity(data_dir, names),
        digest=digest_of_places(source),
    )


def _eurosat(
    data_dir: Path, convert: Callable[[DataSpec], InputTransform], size: int | None
) -> SamplePatches:
    dataset = EurosatDataset(data_dir)
    transform = convert(dataset.spec)
    channels = [dataset.spec.bands.index(band) for band in transform.bands]
    return SamplePatches(
        data_dir,
        dataset.names,
        lambda index: transform.to_picture(dataset.stored(index, channels)),
        transform,
        size,
        locate=dataset.file_bytes,
        identity=_identity(data_dir, dataset.names),
    )


def _bigearthnet(data_dir: Path, transform: InputTransform, size: int | None) -> SamplePatches:
    source, listing = find_patches(data_dir, lmdb=is_lmdb(data_dir))
    names = listing.names

    def locate(index: int) -> bytes:
        if not isinstance(source, PatchFolder):
            return b""
        return source.band_bytes(names[index], transform.bands[0])

    return SamplePatches(
        data_dir,
        names,
        lambda index: patch_picture(source, names[index], transform, size or IMAGE_SIZE),
        transform,
        size,
        day=lambda index: _sensed(names[index]),
        locate=locate,
        identity=source.fingerprint(names, transform.bands),
    )


def _rasters(data_dir: Path) -> list[Path]:
    """Return the rasters of a path; none if its TIFFs are pictures or single bands."""
    if data_dir.suffix.lower() in SUFFIXES and not data_dir.is_dir():
        return [data_dir]
    if not data_dir.is_dir():
        return []
    names = sorted(path for path in data_dir.iterdir() if path.suffix.lower() in SUFFIXES)
    paths = [path for path in names if path.is_file() and not is_hidden(path.name)]
    if not paths or not _is_large(paths[0]):
        return []
    return paths


def _is_large(path: Path) -> bool:
    """Return whether a TIFF is something that no folder of pictures holds."""
    if path.suffix.lower() == ".vrt":
        return True
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(path, driver="GTiff") as file:
            is_picture = file.count in (1, 3) and file.dtypes[0] == "uint8"
            return not is_picture or max(file.shape) > _LARGEST_PICTURE_PX
    except RasterioIOError:
        return False


def _is_oscd(data_dir: Path) -> bool:
    try:
        return bool(find_cities(data_dir))
    except UserError:
        return False


def _is_eurosat_in_13_bands(data_dir: Path) -> bool:
    """Return whether a folder or zip has EuroSAT's class folders with GeoTIFFs."""
    if data_dir.is_dir():
        patterns = (f"{CLASSES[0]}/*.tif", f"*/{CLASSES[0]}/*.tif")
        return any(path for pattern in patterns for path in data_dir.glob(pattern))
    runs = ZipFiles(data_dir).runs() if is_zip(data_dir) else ()
    return any(run.folder.endswith(f"{CLASSES[0]}/") and is_geotiff(run.files[0]) for run in runs)


def _sensed(name: str) -> str:
    found = _SENSED.search(name)
    return "-".join(found.groups()) if found else ""


def _nowhere(index: int) -> bytes:
    return b""


def _identity(path: Path, names: Sequence[str]) -> str:
    """Return a text that changes with a path, its time of change and the names in it."""
    state = path.stat() if path.exists() else None  # None: an address in a bucket
    digest = hashlib.sha256("\n".join(names).encode())
    found = (str(path), state and state.st_size, state and state.st_mtime_ns, digest.hexdigest())
    return repr(found)
