"""Any folder or zip of pictures, for users' own imagery."""

import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from datasets.bad_patches import BadPatchError, first_readable
from utils.errors import UserError
from utils.files import is_hidden
from utils.normalization import InputSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_BITS_PER_SAMPLE = 258  # tag of TIFF 6.0
_PNG_DEPTH_OFFSET = 24  # of the bit depth in the IHDR chunk, which is always the first
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError),  # Pillow
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),  # zipfile
)


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
        self.names = list_images(root)
        if image_list is not None:
            kept = select(self.names, image_list, root)
            self.names = [self.names[index] for index in kept]
        self.starts = np.arange(len(self.names) + 1)
        self.input_spec = InputSpec.of_pictures()
        self._zip: tuple[int, zipfile.ZipFile] | None = None
        # Shared with the worker processes, so that only one of them warns.
        self._has_warned = torch.zeros(1, dtype=torch.bool).share_memory_()
        first = first_readable(self._open, len(self.names))
        self.patch_shape = (3, first.height, first.width)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_zip": None}  # a handle cannot be sent to a spawned worker

    def name(self, patch: int) -> str:
        """Return the name of a picture relative to the root."""
        return self.names[patch]

    def read(self, patch: int) -> np.ndarray:
        """Read a picture: uint8, shape (3, H, W); one that is damaged is a ``BadPatchError``."""
        image = self._open(patch)
        size = (self.patch_shape[2], self.patch_shape[1])
        if image.size != size:
            self._warn_of_size(patch, image.size)
            image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)  # averages to shrink
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def _open(self, index: int) -> Image.Image:
        """Decode a picture as RGB."""
        name = self.names[index]
        where = str(self.root / name)
        try:
            data = self._read_bytes(name)
            with Image.open(BytesIO(data)) as image:
                if bit_depth(image, data) > 8:
                    raise UserError(f"{where} has more than 8 bits per channel: convert it to 8")
                picture = image.convert("RGB")
        except UNREADABLE as error:
            state = "is not a readable picture" if self._exists(name) else "is missing"
            raise BadPatchError(where, state) from error
        if picture.getbbox() is None:
            raise BadPatchError(where, "holds only zeros")
        return picture

    def _read_bytes(self, name: str) -> bytes:
        if self.root.is_dir():
            return (self.root / name).read_bytes()
        # Processes that share an open file move each other's position in it.
        if self._zip is None or self._zip[0] != os.getpid():
            self._zip = (os.getpid(), zipfile.ZipFile(self.root))
        return self._zip[1].read(name)

    def _exists(self, name: str) -> bool:
        return not self.root.is_dir() or (self.root / name).exists()

    def _warn_of_size(self, index: int, size: tuple[int, int]) -> None:
        if self._has_warned.item():
            return
        self._has_warned.fill_(True)
        _, height, width = self.patch_shape
        warnings.warn(
            f"pictures differ in size: {self.names[index]} has {size[0]} x {size[1]} px; all are "
            f"scaled and cropped to the {width} x {height} px of {self.names[0]}",
            stacklevel=2,
        )


def list_images(root: Path) -> list[str]:
    """List the pictures of a folder or zip, sorted, as names relative to it with slashes."""
    if not root.exists():
        raise UserError(f"{root} is missing: --data_dir")
    if root.is_dir():
        names = [Path(os.path.relpath(file, root)).as_posix() for file in _walk(root)]
    else:
        try:
            with zipfile.ZipFile(root) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise UserError(f"{root} is neither a folder nor a whole zip: --data_dir") from error
    names = sorted({name for name in names if _is_image(name)})
    if not names:
        raise UserError(
            f"{root} holds neither pictures ({' '.join(SUFFIXES)}) nor SeCo patches "
            "(PLACE/SCENE/B4.tif): --data_dir"
        )
    return names


def _walk(root: Path) -> Iterator[str]:
    """Yield the files of a folder and its subfolders, also of linked ones."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if Path(folder).is_symlink() and Path(folder).parent.resolve().is_relative_to(
            Path(folder).resolve()
        ):
            subfolders.clear()  # the link leads back to a folder above: round and round
            continue
        yield from (os.path.join(folder, name) for name in names)  # noqa: PTH118 - fast


def _is_image(name: str) -> bool:
    """Tell pictures from other files, and from what macOS leaves beside them."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return name.lower().endswith(SUFFIXES) and not hidden


def select(names: list[str], image_list: Path, root: Path) -> list[int]:
    """Return the sorted indices of the listed names, see ``Pictures``."""
    if not image_list.is_file():
        raise UserError(f"there is no file {image_list}: --image_list")
    lines = (line.strip() for line in read_list(image_list.read_bytes(), image_list).splitlines())
    wanted = {
        line.removeprefix("./"): None
        for line in lines
        if line and not is_hidden(line.rsplit("/", 1)[-1])
    }
    if not wanted:
        raise UserError(f"{image_list} names no pictures: --image_list takes a name per line")
    found: dict[str, list[str]] = {name: [] for name in wanted}
    indices = {name: index for index, name in enumerate(names)}
    for name in names:
        parts = name.split("/")
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if tail in found:
                found[tail].append(name)
    missing = [name for name, matches in found.items() if not matches]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(wanted)} names in {image_list} are not in {root}, "
            f"the first is {missing[0]}"
        )
    for name, matches in found.items():
        if name not in matches and len(matches) > 1:
            raise UserError(
                f"{name} in {image_list} may be {matches[0]} or {matches[1]}: add its folder"
            )
    kept = {name if name in matches else matches[0] for name, matches in found.items()}
    return sorted(indices[name] for name in kept)


def read_list(content: bytes, name: object) -> str:
    """Decode a list of names; editors on Windows put a mark before UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not a text in UTF-8: save the list as such") from error


def bit_depth(image: Image.Image, data: bytes) -> int:
    """Return the bits per channel of the file; Pillow quietly cuts 16-bit colour down to 8."""
    if image.format == "PNG":
        return data[_PNG_DEPTH_OFFSET]
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    return 8
