"""Errors of a request that may work later, and how long a server asks to wait."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_PAUSE_S = 3600.0  # longer requests of a service count as this one


class Transient(Exception):
    """The same request may work later.

    Args:
        reason: What happened.
        wait_s: Seconds that the service requests to wait; 0 if it does not say.
        is_quota: A quota of the service was exceeded.
        is_strange: The answer was not one of the service (a portal's page, an empty object); a few
            in a row end the run.
        is_too_large: The request may be too large; it is not repeated unchanged.
    """

    def __init__(
        self,
        reason: str,
        *,
        wait_s: float = 0,
        is_quota: bool = False,
        is_strange: bool = False,
        is_too_large: bool = False,
    ) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.is_quota = is_quota
        self.is_too_large = is_too_large
        self.is_strange = is_strange


def retry_after(text: str) -> float:
    """Return the seconds of a header Retry-After, a number or a date (RFC 9110); else 0."""
    text = text.strip()
    try:
        if text.isdecimal():
            wait_s = float(text)
        else:
            wait_s = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait_s, 0.0), _LONGEST_PAUSE_S)
