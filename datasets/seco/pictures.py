"""Any folder or zip of pictures, for users' own imagery."""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from datasets.archive import ZipFiles, is_zip, zip_hint
from datasets.bands import band_of
from datasets.geotiff.reader import opened
from datasets.seco.bad_patches import BadPatchError, first_readable
from utils.errors import UserError
from utils.files import MAX_TABLE_BYTES, is_hidden, read_file, read_list
from utils.images import MAX_BYTES, MAX_PIXELS, bit_depth, read_image
from utils.input_spec import InputSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
# Tags of TIFF 6.0; sections 3, 4, 7, 16 and 19 of its specification.
_SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 277, 338
_PHOTOMETRIC, _CMYK = 262, 5
_SAMPLE_FORMAT, _UNSIGNED = 339, {1, 4}  # 4 is not defined
_ALPHA = (1, 2)  # extra samples that are transparency; 0 is not specified
_DRIVERS = ["GTiff", "PNG", "JPEG"]
_SIZES, _TRANSPARENCY = 0, 1  # kinds of warnings


class Pictures:
    """8-bit pictures as RGB, sorted by name, each a place of its own; a ``PatchSource``.

    A picture of another size than the first is scaled and cropped around its centre.

    Args:
        root: Folder, searched with its subfolders, or zip.
        image_list: File with a name per line; other pictures are left out. A name is relative to
            ``root``, and leading folders may be left out where the rest is unambiguous.

    Attributes:
        names: Names of the pictures relative to ``root``.
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        input_spec: Channels and normalisation.
        patch_shape: 3, height and width of the first picture.
    """

    bands = ("R", "G", "B")

    def __init__(self, root: Path, image_list: Path | None = None) -> None:
        self.root = root
        self._zip = ZipFiles(root) if root.is_file() else None
        found = _list_images(root, self._zip)
        self.names = list(found)
        if image_list is not None:
            self.names = [self.names[index] for index in select(self.names, image_list, root)]
        if self._zip:
            self._entries = np.array([found[name] for name in self.names])
        self.starts = np.arange(len(self.names) + 1)
        self.input_spec = InputSpec.of_pictures()
        import torch  # not above: packing and collecting import this file without torch

        # Shared with the workers, so that only one of them warns.
        self._has_warned = torch.zeros(2, dtype=torch.bool).share_memory_()
        self._refuse_single_bands()
        first = first_readable(self._open, len(self.names))
        self.patch_shape = (3, first.height, first.width)

    def name(self, patch: int) -> str:
        """Return the name of a picture relative to the root."""
        return self.names[patch]

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read a picture as a patch; arguments as in ``PatchSource.read``."""
        image = self._open(patch)
        _, height, width = self.patch_shape
        if image.size != (width, height):
            self._warn_once(
                _SIZES,
                f"pictures differ in size: {self.names[patch]} has {image.width} x {image.height} "
                f"px; all are scaled and cropped to the {width} x {height} px of {self.names[0]}",
            )
            # Averages to shrink.
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        pixels = np.empty(self.patch_shape, np.uint8) if out is None else out
        pixels[:] = np.asarray(image).transpose(2, 0, 1)
        return pixels

    def _refuse_single_bands(self) -> None:
        """Refuse single bands of satellite images, which would be read as grey pictures."""
        bands = (band_of(f"{PurePosixPath(name).stem}.tif") for name in self.names)
        patch, band = next(((n, band) for n, band in enumerate(bands) if band), (0, None))
        if band is None:
            return
        with suppress(OSError, ValueError), opened(self._read_bytes(patch), _DRIVERS) as file:
            if file.count > 1:
                return
        raise UserError(
            f"{self.root} holds single bands such as {self.names[patch]}: give the folder of the "
            f"places, for PLACE/SCENE/{band}.tif; rename what is an ordinary picture"
        )

    def _open(self, index: int) -> Image.Image:
        """Decode a picture as RGB."""
        where = str(self.root / self.names[index])
        data = b""
        try:
            data = self._read_bytes(index)
            picture = read_image(data, "RGB", partial(self._check_channels, where, data))
        except (OSError, ValueError) as error:
            _refuse_if_valid(data, where)
            is_missing = self._zip is None and not Path(where).exists()
            state = "is missing" if is_missing else "is not a readable picture"
            raise BadPatchError(where, state) from error
        if picture.getbbox() is None:
            raise BadPatchError(where, "holds only zeros")
        return picture

    def _check_channels(self, where: str, data: bytes, image: Image.Image) -> None:
        """Raise a ``ValueError`` if ``convert("RGB")`` would drop bits or bands."""
        tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
        num_alpha = sum(extra in _ALPHA for extra in tags.get(_EXTRA_SAMPLES, ()))
        num_colours = tags.get(_SAMPLES_PER_PIXEL, 1) - num_alpha
        is_colour = num_colours in (1, 3) or (num_colours == 4 and tags.get(_PHOTOMETRIC) == _CMYK)
        is_unsigned = set(tags.get(_SAMPLE_FORMAT, (1,))) <= _UNSIGNED
        if bit_depth(image, data) > 8 or not is_colour or not is_unsigned:
            raise ValueError("not an 8-bit picture")
        if image.format == "TIFF" and image.getbands()[-1] in ("A", "a"):
            self._warn_once(
                _TRANSPARENCY,
                f"{where} declares its last band as transparency: it is left out, here and in "
                "every TIFF that does so",
            )

    def _read_bytes(self, index: int) -> bytes:
        if self._zip is None:
            return read_file(self.root / self.names[index], MAX_BYTES)
        return self._zip.read(int(self._entries[index]), MAX_BYTES)

    def _warn_once(self, kind: int, text: str) -> None:
        if not self._has_warned[kind].item():
            self._has_warned[kind] = True
            warnings.warn(text, stacklevel=2)


def _list_images(root: Path, archive: ZipFiles | None) -> dict[str, int | None]:
    """Map names of pictures, sorted and relative to the root, to where they are in the zip."""
    if not root.exists():
        raise UserError(f"{root} is missing")
    files: Iterable[tuple[str, int | None]]
    if archive is None:
        files = ((Path(os.path.relpath(file, root)).as_posix(), None) for file in _walk(root))
    elif is_zip(root):
        files = archive.members()
    else:
        raise UserError(f"{root} is neither a folder nor a whole zip")
    images = dict(
        sorted((n, at) for n, at in files if n.lower().endswith(SUFFIXES) and not is_hidden(n))
    )
    if not images:
        raise UserError(
            f"{root} holds neither pictures ({' '.join(SUFFIXES)}) nor SeCo patches "
            f"(PLACE/SCENE/B4.tif){zip_hint(root)}"
        )
    return images


def _walk(root: Path) -> Iterator[str]:
    """Yield the files of a folder and its subfolders, also of linked ones."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if Path(folder).is_symlink() and Path(folder).parent.resolve().is_relative_to(
            Path(folder).resolve()
        ):
            subfolders.clear()  # the link leads back to a folder above it
            continue
        yield from (os.path.join(folder, name) for name in names)  # noqa: PTH118 - fast


def select(names: list[str], image_list: Path, root: Path) -> list[int]:
    """Return the sorted indices of the listed names, see ``Pictures``.

    Args:
        names: Names of all pictures.
        image_list: File with a name per line.
        root: Data set, for the errors.

    Raises:
        UserError: The file is not a list, or a name is not among the pictures, or ambiguous.
    """
    if not image_list.is_file():
        raise UserError(f"image_list {image_list} is missing, or not a file")
    lines = read_list(read_file(image_list, MAX_TABLE_BYTES), image_list).splitlines()
    wanted = {line.strip().removeprefix("./") for line in lines}
    wanted = {name for name in wanted if name and not is_hidden(name.rsplit("/", 1)[-1])}
    found: dict[str, list[int]] = defaultdict(list)  # of each name, with or without its folders
    for index, name in enumerate(names):
        parts = name.split("/")
        for tail in {"/".join(parts[start:]) for start in range(len(parts))} & wanted:
            if tail == name:
                found[tail].insert(0, index)  # the exact name wins
            else:
                found[tail].append(index)
    unclear = sorted(
        f"{name} ({len(found[name])} pictures)"
        for name in wanted
        if not found[name] or (len(found[name]) > 1 and names[found[name][0]] != name)
    )
    if unclear or not wanted:
        raise UserError(
            f"{len(unclear)} of {len(wanted)} names in image_list {image_list} do not name one "
            f"picture of {root}, such as {' '.join(unclear[:1]) or 'an empty list'}: write a name "
            "per line, with its folders where they are needed"
        )
    return sorted({found[name][0] for name in wanted})


def _refuse_if_valid(data: bytes, where: str) -> None:
    """Refuse an undamaged file that is not such a picture, which no run may skip."""
    try:
        with opened(data, _DRIVERS) as file:
            holds = f"{file.count} x {file.dtypes[0]}, {file.width} x {file.height} px"
            is_other = file.count not in (1, 3) or file.dtypes[0] != "uint8"
            if not is_other and file.width * file.height <= MAX_PIXELS:
                if file.driver != "GTiff":
                    return
                file.read()  # its compression or colours are not supported, or it is damaged
    except ValueError:
        return
    raise UserError(
        f"{where} has {holds}, but pictures have 1 band (grey) or 3 (RGB) of uint8 and at most "
        f"{MAX_PIXELS:,} px: convert it, as gdal_translate -ot Byte -scale -b 1 -co "
        "COMPRESS=DEFLATE -co PHOTOMETRIC=RGB does, or cut it into tiles"
    )
