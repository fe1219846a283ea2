"""The result of one trial of a reliability test."""

from typing import NamedTuple


class Trial(NamedTuple):
    """One attempt to lose or to damage something.

    Args:
        name: What was tried: kind, place and instant.
        failure: What went wrong; None if nothing did.
    """

    name: str
    failure: str | None
