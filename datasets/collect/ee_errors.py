"""What Earth Engine's errors mean: repeat, ask for less, take another scene, come back, or give up.

The client translates an answer of the service into an ``EEException`` with only its text; status
and content are in the exception's context. Other errors are those of the transport, or of answers
that are not the service's. (Facts: earthengine-api 1.7.50.)

Status and content decide, never a text that was shortened for display.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.auth.exceptions import GoogleAuthError, TransportError
from googleapiclient.errors import Error as ClientError
from requests.exceptions import TooManyRedirects

from datasets.collect.scenes import ComeBack, Missing, Refused
from utils.errors import UserError, quoted
from utils.retry import Transient, retry_after

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
        "see at console.cloud.google.com/quotas when it begins again",
    ),
)
_NEXT = "run `earthengine authenticate`, or give --service_account_key"


@dataclass(frozen=True)
class _Answer:
    """An answer that is an error.

    Attributes:
        status: Of HTTP.
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
        return Transient("the connection broke")  # to where credentials are renewed
    if isinstance(error, GoogleAuthError):
        return UserError(f"Earth Engine's credentials are missing, expired or revoked: {_NEXT}")
    if isinstance(error, TimeoutError):
        return Transient("no answer in time", is_too_large=True)
    if isinstance(error, TooManyRedirects | ClientError):
        return Transient("an answer that is not the service's", is_strange=True)
    if isinstance(error, OSError):
        return Transient("the connection broke")
    if isinstance(error, EOFError | ValueError | KeyError | TypeError | AttributeError):
        return Transient("an answer that is not the service's", is_strange=True)
    if type(error).__name__ == "EEException":  # of the client alone: the request is wrong
        return Refused(quoted(str(error), 200))
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
    """Return the end of a run whose project has used up what it has for a day or a month."""
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
