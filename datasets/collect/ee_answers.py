"""What Earth Engine's answers mean: scenes, pixels, and errors."""

import io
import math
import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import requests
from numpy.lib import format as npy

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import Array, ComeBack, Missing, Refused, Scene
from datasets.collect.web import check_status
from utils.errors import NOT_AS_WRITTEN, UserError, quoted
from utils.retry import Transient

PROPERTIES = (
    *("PRODUCT_ID", "SPACECRAFT_NAME", "MGRS_TILE", "SENSING_ORBIT_NUMBER", "PROCESSING_BASELINE"),
    *("CLOUDY_PIXEL_PERCENTAGE", "MEAN_SOLAR_ZENITH_ANGLE", "system:time_start"),
)
# NumPy reads headers by Python's parser, which fails at times in many threads (CPython 106905).
_HEADERS = threading.Lock()
_QUOTA_REASONS = {
    *("rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"),
    *("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED"),
}
# Errors of scaling (developers.google.com/earth-engine/guides/debugging), as users report them with
# HTTP 400: gee-community/geemap issues 1790 (Computation timed out.) and 1092 (Request payload size
# exceeds the limit), google/Xee issue 50 (Total request size), openearth/hydro-engine issue 35
# (Earth Engine memory capacity exceeded), and "User memory limit exceeded." of the guide.
_TOO_LARGE = re.compile(
    r"computation timed out|memory (limit|capacity) exceeded|payload size exceeds"
    r"|Total request size \(\d+ bytes\) must be less",
    re.IGNORECASE,
)
# Such as "ImageCollection.load: ImageCollection asset 'A/B' not found (does not exist or caller
# does not have access)." (Open-ET/openet-ssebop issue 74) and "Permission 'earthengine.assets.get'
# denied on resource 'projects/P/assets/B' (or it may not exist)."
# (landler-io/ecosystem-integrity-index issue 2).
_MISSING = re.compile(r"asset '[^']*' not found|denied on resource '[^']*/assets/", re.IGNORECASE)
# Of a day: "Your usage exceeded the custom quota for '.../daily_eecu_usage_time'"
# (developers.google.com/earth-engine/guides/cost_controls), and "Quota exceeded for quota metric
# 'M' and limit 'M per day' of service S" of any Google API. Where the limit is 'Number of read
# requests per minute per user' (gee-community/qgis-earthengine-plugin issue 202) a repeat helps.
_QUOTA = re.compile(r"quota|limit exceeded", re.IGNORECASE)
_LONG_QUOTA = re.compile(
    r"(?<![a-z])(daily|monthly)|per (day|month)|dailyLimit|EECU", re.IGNORECASE
)


def parse_scene(properties: dict[str, Any], bands: Sequence[str]) -> Scene:
    """Read a scene from the answer to a search; many kinds of errors if it is not one.

    Args:
        properties: ``PROPERTIES``, and means over the patch's pixels: ``known`` and ``clear``, and
            by the name of each band where it has data.
        bands: All of them must have data.
    """
    start = datetime.fromtimestamp(properties["system:time_start"] / 1000, UTC)
    name = properties["scene"]
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError("not the name of a scene, which becomes that of a folder")
    known = _share(properties, "known")
    # Half a patch is enough; where less is known, the share of clouds in the scene decides.
    clear = _share(properties, "clear") / known if known >= 0.5 else None
    baseline = str(properties.get("PROCESSING_BASELINE", ""))
    return Scene(
        name=name,
        start=start,
        cloud_percent=float(properties["CLOUDY_PIXEL_PERCENTAGE"]),
        clear_fraction=None if clear is None else round(clear, 6),
        valid_fraction=round(min(_share(properties, band) for band in bands), 6),
        baseline=baseline,
        is_clamped=baseline >= "04.00",  # uint16 without the offset has no room below 0
        properties={name: properties[name] for name in PROPERTIES if name in properties},
    )


def _share(properties: dict[str, Any], name: str) -> float:
    """Return a mean of pixels; the service leaves out or nulls what has none."""
    return float(properties.get(name) or 0)


def decode(content: bytes, bands: Sequence[str], side: int) -> dict[str, Array]:
    """Read an NPY file with a field of 2 bytes per band, shape (side, side).

    Args:
        content: Bytes of the file.
        bands: Names of the fields, in their order.
        side: Height and width in pixels.

    Raises:
        Transient: It is another file.
    """
    if not content.startswith(b"\x93NUMPY"):
        raise Transient("an answer that is not an array", is_strange=bool(content))
    file = io.BytesIO(content)
    try:
        with _HEADERS:
            is_first = npy.read_magic(file) == (1, 0)
            header = (npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0)(file)
        shape, is_fortran, dtype = header  # np.load would copy the pixels, in small pieces
        pixels = np.frombuffer(content, dtype, math.prod(shape), file.tell())
        pixels = pixels.reshape(shape, order="F" if is_fortran else "C")
    except Exception as error:  # NumPy's reader of headers raises many kinds
        raise Transient("an array that is cut off") from error
    kinds = [pixels.dtype[name].str[1:] for name in pixels.dtype.names or ()]
    if (pixels.dtype.names, pixels.shape) != (tuple(bands), (side, side)) or set(kinds) != {"u2"}:
        shown = quoted(f"{pixels.shape} {pixels.dtype}")
        raise Transient(f"an array of {shown} instead of uint16 bands", is_strange=True)
    return {band: pixels[band] for band in bands}


def native(band: str, image: Array) -> Array:
    """Return a band's own pixels, uint16.

    Args:
        band: Name of the band.
        image: Digital numbers upsampled to 10 m, shape (H, W).

    Raises:
        Refused: A block is not of one value: the band's grid is not that of the patch.
    """
    factor = RESOLUTION_M[band] // 10
    rows = image.reshape(len(image) // factor, factor, -1)  # a view; of a block's rows the first
    pixels = np.array(rows[:, 0, ::factor], np.uint16, order="C")
    if factor > 1 and not (rows == pixels.repeat(factor, 1)[:, None]).all():
        raise Refused(
            f"its {band} does not come in whole pixels of {RESOLUTION_M[band]} m, so its grid is "
            "not that of the patch"
        )
    return pixels


def check_answer(response: requests.Response) -> None:
    """Raise what an answer of the service means, if it is an error; 401 is the client's matter.

    Raises:
        UserError: The service refuses the project or the account.
    """
    status = response.status_code
    if status < 400 or status == 401:
        return
    text, reasons = _message(response)
    shown = f"HTTP {status}, {quoted(' '.join(text.split()), 120)}" if text else f"HTTP {status}"
    words = " ".join([text, *reasons])
    if status < 500 and _QUOTA.search(words) and _LONG_QUOTA.search(words):
        raise ComeBack(
            f"the project's quota of the day or month is used up ({shown}): wait until it begins "
            "again, a day at midnight Pacific time; console.cloud.google.com/quotas shows it"
        )
    check_status(
        response,
        is_quota=status == 403 and bool(reasons & _QUOTA_REASONS),
        is_too_large=status in (413, 504) or bool(_TOO_LARGE.search(text)),
        shown=shown,
    )
    if not text:
        raise Transient(f"{shown} with a page that is not the service's", is_strange=True)
    if status == 404 or _MISSING.search(text):
        raise Missing(shown)
    if status == 403:
        raise UserError(
            f"Earth Engine refuses this project or account ({shown}): register the project for "
            "Earth Engine, or name another one with --project"
        )
    raise Refused(shown)


def _message(response: requests.Response) -> tuple[str, set[str]]:
    """Return an error's message, empty if it is not the service's, and its words for programs."""
    try:
        error = response.json()["error"]
        details = [*error.get("errors", []), *error.get("details", [])]
        reasons = {str(detail.get("reason")) for detail in details} | {str(error.get("status"))}
        return str(error["message"]), reasons
    except NOT_AS_WRITTEN:
        return "", set()
