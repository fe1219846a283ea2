"""Windows of GeoTIFFs on the web, by ranges that are fetched through our session.

GDAL never touches the network. Its own client repeats and waits as it likes, hides the status and
Retry-After, and keeps other threads from running while it waits for an answer.
"""

import io
import re
import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window as PixelWindow

from datasets.collect.scenes import Array, Missing, PatchGrid, Refused
from datasets.collect.utm import utm_crs
from datasets.collect.web import Web
from datasets.geotiff.reader import GDAL_OPTIONS
from utils.errors import UserError, quoted
from utils.retry import Transient

HEAD_BYTES = 2**15  # header, directories and tables of a COG; also the least that is requested
PAUSE_S = 0.1
_TRIES = 3  # of a range: an image takes 40, and one that fails would cost the others
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_LARGEST_BLOCK = 2**24  # pixels; GDAL decodes whole blocks


def read_window(web: Web, url: str, grid: PatchGrid, resolution_m: int, dtype: str) -> Array:
    """Read a patch from a file on the same grid; 0 outside of the file.

    Args:
        web: Session.
        url: http or https.
        grid: Where the patch is.
        resolution_m: Size of the file's pixels in metres.
        dtype: Type of the file's values.

    Raises:
        Transient: It may work later.
        Refused: The file does not exist (``Missing``), or is another one than was expected.
        UserError: The host needs signed addresses.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.endswith(".blob.core.windows.net") and "sig=" not in url:
        raise UserError(
            f"files at {host} need signed addresses, which are not supported: take another "
            "catalogue with --stac_url"
        )
    remote = RemoteFile(web, url)
    try:
        image = _read(remote, grid, resolution_m, dtype)
    except Refused as refusal:
        raise remote.error or refusal from None  # what GDAL found wrong may only have been missing
    except (RasterioError, ValueError, MemoryError) as error:
        name = quoted(parts.path, 200)  # without a token after it
        raise remote.error or Missing(f"a file that cannot be decoded, {name}") from error
    if remote.error is not None:
        raise remote.error
    return image


def _read(remote: "RemoteFile", grid: PatchGrid, resolution_m: int, dtype: str) -> Array:
    side = 10 * grid.size_px // resolution_m
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        file = stack.enter_context(rasterio.open("band.tif", driver="GTiff", opener=remote.open))
        where, block = file.transform, file.block_shapes[0]
        column, row = (grid.left - where.c) / resolution_m, (where.f - grid.top) / resolution_m
        is_ours = (where.a, where.b, where.d, where.e) == (resolution_m, 0, 0, -resolution_m)
        if not is_ours or column % 1 or row % 1 or file.crs != utm_crs(grid.epsg):
            raise Refused("a file on another grid")
        if file.count != 1 or file.dtypes[0] != dtype or block[0] * block[1] > _LARGEST_BLOCK:
            raise Refused(f"a file that is not one band of {dtype}")
        left, top = int(column), int(row)
        rows = slice(max(0, top), min(file.height, top + side))
        columns = slice(max(0, left), min(file.width, left + side))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return np.zeros((side, side), dtype)
        image = file.read(1, window=PixelWindow.from_slices(rows, columns))
        above, before = rows.start - top, columns.start - left
        return np.pad(
            image, ((above, side - above - len(image)), (before, side - before - image.shape[1]))
        )


class RemoteFile(io.RawIOBase):
    """A TIFF of which ranges are fetched as GDAL needs them, each once.

    GDAL swallows what a reader raises: ``error`` keeps the first one, and nothing more is fetched.

    Args:
        web: Session.
        url: http or https.
    """

    def __init__(self, web: Web, url: str) -> None:
        self.error: Exception | None = None
        self._web = web
        self._url = url
        self._at = self._size = 0
        head = self._fetch(0, HEAD_BYTES)
        if not head.startswith(_TIFF):
            raise Refused("a file that is not a TIFF")
        self._parts = [(0, head)]

    def open(self, *_: Any, **__: Any) -> "RemoteFile":
        """Return the file at its beginning; GDAL opens it one time after the other."""
        self._at = 0
        return self

    def close(self) -> None:
        """Keep what was fetched."""

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def read(self, count: int = -1) -> bytes:
        content = self._read_at(self._at, self._size if count < 0 else count)
        self._at += len(content)
        return content

    def _read_at(self, start: int, count: int) -> bytes:
        """Return a range, cut at the end of the file; nothing after an error."""
        end = min(start + count, self._size)
        for first, part in self._parts:
            if first <= start and end <= first + len(part):
                return part[start - first : end - first]
        if self.error is not None or start >= end:
            return b""
        try:
            part = self._fetch(start, max(count, HEAD_BYTES))
        except (Transient, Refused) as error:
            self.error = error
            return b""
        self._parts.append((start, part))
        return part[: end - start]

    def _fetch(self, start: int, count: int) -> bytes:
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._fetch_once(start, count)
            except Transient as error:
                if error.is_quota or error.wait_s or not tries_left:
                    raise
                time.sleep(PAUSE_S)
        raise AssertionError

    def _fetch_once(self, start: int, count: int) -> bytes:
        headers = {"Range": f"bytes={start}-{start + count - 1}", "Accept-Encoding": "identity"}
        response = self._web.ask("GET", self._url, headers=headers)
        content = response.content
        if response.status_code != 206 and content.startswith(_TIFF):
            raise Refused("a server that sends no part of a file")
        place = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        first, last, size = map(int, place.groups()) if place else (-1, -1, 0)
        is_range = (first, last + 1) == (start, min(start + count, size))
        if not is_range or len(content) != last + 1 - start or self._size not in (0, size):
            raise Transient("another part of a file than was requested", is_strange=True)
        self._size = size
        return content
