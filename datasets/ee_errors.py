"""What Earth Engine's errors mean: repeat, take another scene, come back later, or give up.

The client translates an answer of the service into an ``EEException`` with only its text; the
status is in the exception's context. Other errors are those of the transport, or of answers that
are not the service's. (Facts: earthengine-api 1.7.50.)
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from google.auth.exceptions import GoogleAuthError, TransportError
from googleapiclient.errors import Error as ClientError
from requests.exceptions import TooManyRedirects

from datasets.collect_scenes import ComeBack, Refused
from utils.errors import UserError, quoted
from utils.rate_limit import Transient, retry_after

_QUOTA_REASONS = {
    *("rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"),
    *("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED"),
}
# The limit is 50,331,648 bytes before compression.
_TOO_LARGE = re.compile(r"Total request size \(\d+ bytes\) must be less")
_MONTH = re.compile(r"\b(monthly|per month|EECU)", re.IGNORECASE)
_NEXT = "run `earthengine authenticate`, or give --service_account_key"


class TooLarge(Exception):
    """The answer would be larger than the service allows: ask for fewer bands at a time."""


def translate(error: Exception) -> Exception:
    """Return what to raise instead of an exception of the client."""
    status, headers, reasons = _answer_of(error)
    if status is not None:
        return _of_status(status, headers, reasons, str(error))
    if isinstance(error, TransportError) or getattr(error, "retryable", False):
        return Transient("the connection broke")  # to where credentials are renewed
    if isinstance(error, GoogleAuthError):
        return UserError(f"Earth Engine's credentials are missing, expired or revoked: {_NEXT}")
    if isinstance(error, TimeoutError):
        return Transient("no answer in time")
    if isinstance(error, TooManyRedirects | ClientError):
        return Transient("an answer that is not the service's", is_strange=True)
    if isinstance(error, OSError):
        return Transient("the connection broke")
    if isinstance(error, EOFError | ValueError | KeyError | TypeError | AttributeError):
        return Transient("an answer that is not the service's", is_strange=True)
    if type(error).__name__ == "EEException":  # of the client alone: the request is wrong
        return Refused(quoted(str(error), 200))
    return error


def _of_status(status: int, headers: Mapping[str, str], reasons: set[str], text: str) -> Exception:
    shown = f"HTTP {status}, {quoted(' '.join(text.split()), 120)}"
    wait_s = retry_after(headers.get("retry-after", ""))
    if status in (403, 429) and _MONTH.search(text):
        return ComeBack(
            f"the project's quota of the month is used up ({shown}): wait for the next month, or "
            "apply for a higher tier"
        )
    if status == 429 or (status == 403 and reasons & _QUOTA_REASONS):
        return Transient(f"HTTP {status}, too many requests", wait_s=wait_s, is_quota=True)
    if status == 401:
        return UserError(f"Earth Engine does not accept the credentials ({shown}): {_NEXT}")
    if status == 403:
        return UserError(
            f"Earth Engine refuses this project or account ({shown}): register the project for "
            "Earth Engine, or name another one with --project"
        )
    if status == 400 and _TOO_LARGE.search(text):
        return TooLarge(text)
    if status == 400 and "timed out" in text:  # of a computation
        return Transient("HTTP 400, computation timed out")
    if status == 408 or status >= 500:
        return Transient(f"HTTP {status}", wait_s=wait_s)
    return Refused(shown)


def _answer_of(error: Exception) -> tuple[int | None, Mapping[str, str], set[str]]:
    """Return status, headers and reasons of the answer that led to an exception, if any."""
    http_error: Any = error if hasattr(error, "resp") else error.__context__
    response = getattr(http_error, "resp", None)
    if response is None or not hasattr(response, "status"):
        return None, {}, set()
    try:
        content = json.loads(http_error.content)["error"]
        details = [*content.get("errors", []), *content.get("details", [])]
        reasons = {str(detail.get("reason")) for detail in details} | {str(content.get("status"))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reasons = set()
    return int(response.status), response, reasons
