"""What Earth Engine's answers mean: scenes, pixels, and errors.

Status and content decide about an error, never a text that was shortened for display. The client
translates an error of the service into an ``EEException`` with only its text; status and content
are in the exception's context. (Facts: earthengine-api 1.7.50.)
"""

import io
import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from google.auth.exceptions import GoogleAuthError, TransportError
from googleapiclient.errors import Error as ClientError
from numpy.lib import format as npy

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import Array, ComeBack, Missing, Refused, Scene
from utils.errors import UserError, quoted
from utils.retry import Transient, retry_after

PROPERTIES = (
    *("PRODUCT_ID", "SPACECRAFT_NAME", "MGRS_TILE", "SENSING_ORBIT_NUMBER", "PROCESSING_BASELINE"),
    *("CLOUDY_PIXEL_PERCENTAGE", "MEAN_SOLAR_ZENITH_ANGLE", "system:time_start"),
)
_NPY = b"\x93NUMPY"
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
_MISSING = re.compile(r"asset '([^']*)' not found|denied on resource '([^']*/assets/[^']*)'", re.I)
_PUBLIC = "projects/earthengine-public/assets/"  # before the names of the catalogue's assets
# Of a day: "Your usage exceeded the custom quota for '.../daily_eecu_usage_time'"
# (developers.google.com/earth-engine/guides/cost_controls), and "Quota exceeded for quota metric
# 'M' and limit 'M per day' of service S" of any Google API. Where the limit is 'Number of read
# requests per minute per user' (gee-community/qgis-earthengine-plugin issue 202) a repeat helps.
_IS_QUOTA = re.compile(r"quota|limit exceeded|EECU", re.IGNORECASE)
_LONG_QUOTAS = (
    (
        re.compile(r"(?<![a-z])daily|per day|dailyLimitExceeded", re.IGNORECASE),
        "quota of the day",
        "wait for the next day, which begins at midnight Pacific time, or have the limit raised at "
        "console.cloud.google.com/quotas",
    ),
    (
        re.compile(r"(?<![a-z])monthly|per month", re.IGNORECASE),
        "quota of the month",
        "wait for the next month, or apply for a higher tier",
    ),
    (
        re.compile(r"EECU", re.IGNORECASE),
        "quota of compute time",
        "console.cloud.google.com/quotas shows when it begins again",
    ),
)
_NEXT = "run `earthengine authenticate`, or give --service_account_key"


def parse_scene(properties: dict[str, Any], bands: Sequence[str]) -> Scene:
    """Read a scene from the answer to a search.

    Args:
        properties: ``PROPERTIES``, and means over the patch's pixels: ``known`` and ``clear``, and
            by the name of each band where it has data.
        bands: All of them must have data.

    Raises:
        KeyError, TypeError, ValueError, OverflowError, OSError: It is not a scene.
    """
    start = datetime.fromtimestamp(properties["system:time_start"] / 1000, UTC)
    name = properties["scene"]
    if not isinstance(name, str) or not name.replace("_", "").isalnum() or not name.isascii():
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


def zone_of(name: str) -> int:
    """Return the UTM zone of ..._T32UQD; 0 if the name has none."""
    tile = name.rpartition("_T")[2]
    return int(tile[:2]) if tile[:2].isdecimal() else 0


def decode(content: bytes, bands: Sequence[str], side: int) -> dict[str, Array]:
    """Check an NPY file with a field per band, and return views of its bands, of 2 bytes."""
    if not content:
        raise Transient("an empty answer")
    if not content.startswith(_NPY):
        raise Transient("an answer that is not an array", is_strange=True)
    try:
        with _HEADERS:
            pixels = _view(content)
    except Exception as error:  # NumPy's reader of headers raises many kinds
        raise Transient("an array that is cut off") from error
    names = pixels.dtype.names or ()
    kinds = {pixels.dtype[name].kind + str(pixels.dtype[name].itemsize) for name in names}
    if names != tuple(bands) or pixels.shape != (side, side) or kinds != {"u2"}:
        shown = quoted(f"{pixels.shape} {pixels.dtype}")
        raise Transient(f"an array of {shown} instead of uint16 bands", is_strange=True)
    return {band: pixels[band] for band in bands}


def _view(content: bytes) -> Array:
    """Return the array of an NPY file; NumPy's own reader copies it, in small pieces."""
    file = io.BytesIO(content)
    is_first = npy.read_magic(file) == (1, 0)
    read_header = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    pixels = np.frombuffer(content, dtype, math.prod(shape), file.tell())
    return pixels.reshape(shape, order="F" if is_fortran else "C")


def native(band: str, image: Array) -> Array:
    """Return a band's own pixels; 20 m and 60 m bands arrive upsampled to 10 m.

    Args:
        band: Name.
        image: Shape (H, W), on the grid of 10 m.

    Raises:
        Refused: A block is not of one value: the band's grid is not that of the patch.
    """
    factor = RESOLUTION_M[band] // 10
    pixels = np.array(image[::factor, ::factor], np.uint16, order="C")
    if factor > 1 and not np.array_equal(pixels.repeat(factor, 0).repeat(factor, 1), image):
        raise Refused(
            f"its {band} does not come in whole pixels of {RESOLUTION_M[band]} m, so its grid is "
            "not that of the patch"
        )
    return pixels


@dataclass(frozen=True)
class _Answer:
    """An answer that is an error.

    Attributes:
        status: HTTP status.
        headers: By name in lower case.
        text: The service's whole message; None of an answer that is not the service's.
        reasons: Words for programs, such as rateLimitExceeded.
    """

    status: int
    headers: Mapping[str, str]
    text: str | None
    reasons: frozenset[str]


def translate(error: Exception) -> Exception:
    """Return what to raise instead of an exception of the client."""
    answer = _answer_of(error)
    if answer is not None:
        return _of_answer(answer)
    if isinstance(error, TransportError) or getattr(error, "retryable", False):
        return Transient("the connection broke")  # to the service that renews credentials
    if isinstance(error, GoogleAuthError):
        return UserError(f"Earth Engine's credentials are missing, expired or revoked: {_NEXT}")
    if type(error).__name__ == "EEException":  # of the client alone: the request is wrong
        return Refused(quoted(str(error), 200))
    if isinstance(error, OSError):
        return Transient("the connection broke")
    strange = (ClientError, EOFError, ValueError, KeyError, TypeError, AttributeError)
    if isinstance(error, strange):
        return Transient("an answer that is not the service's", is_strange=True)
    return error


def _of_answer(answer: _Answer) -> Exception:
    status, text, wait_s = answer.status, answer.text, retry_after(answer.headers["retry-after"])
    shown = f"HTTP {status}, {quoted(' '.join((text or '').split()), 120)}"
    if used_up := _used_up_quota(answer, shown):
        return used_up
    if status == 429 or (status == 403 and answer.reasons & _QUOTA_REASONS):
        return Transient(f"HTTP {status}, too many requests", wait_s=wait_s, is_quota=True)
    if status in (413, 504) or (text and _TOO_LARGE.search(text)):
        return Transient(shown if text else f"HTTP {status}", wait_s=wait_s, is_too_large=True)
    if status == 408 or status >= 500:
        return Transient(f"HTTP {status}", wait_s=wait_s)
    if text is None:  # of a portal or a proxy
        return Transient(
            f"HTTP {status} with a page that is not the service's", wait_s=wait_s, is_strange=True
        )
    if (missing := _MISSING.search(text)) or status == 404:
        asset = (missing[1] or missing[2]) if missing else ""
        return Missing(shown, asset.removeprefix(_PUBLIC))
    if status == 401:
        return UserError(f"Earth Engine does not accept the credentials ({shown}): {_NEXT}")
    if status == 403:
        return UserError(
            f"Earth Engine refuses this project or account ({shown}): register the project for "
            "Earth Engine, or name another one with --project"
        )
    return Refused(shown)


def _used_up_quota(answer: _Answer, shown: str) -> ComeBack | None:
    """Return the end of a run whose project has used up its quota of a day or a month."""
    words = " ".join([answer.text or "", *sorted(answer.reasons)])
    if answer.status >= 500 or not _IS_QUOTA.search(words):
        return None
    for pattern, name, remedy in _LONG_QUOTAS:
        if pattern.search(words):
            return ComeBack(f"the project's {name} is used up ({shown}): {remedy}")
    return None


def _answer_of(error: Exception) -> _Answer | None:
    """Return the answer that led to an exception, if any."""
    http_error: Any = error if hasattr(error, "resp") else error.__context__
    response = getattr(http_error, "resp", None)
    if response is None or not hasattr(response, "status"):
        return None
    headers = {"retry-after": "", **{str(key).lower(): value for key, value in response.items()}}
    try:
        content = json.loads(http_error.content)["error"]
        details = [*content.get("errors", []), *content.get("details", [])]
        reasons = {str(detail.get("reason")) for detail in details} | {str(content.get("status"))}
        text: str | None = str(content["message"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reasons, text = set(), None
    return _Answer(int(response.status), headers, text, frozenset(reasons))
