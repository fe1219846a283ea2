"""The error of a user, as opposed to a bug."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input. Its text is one sentence that names the thing and the remedy.

    Entry scripts print the sentence and leave with a non-zero exit code (``utils.cli.run``); a bug
    keeps its traceback.
    """


def sentence_of(error: UserError) -> str:
    """Return the sentence alone: torch wraps an error of a loader process into its traceback."""
    text = str(error)
    if text.startswith("Caught ") and "\nOriginal " in text:  # which may begin with its cause
        return text.rstrip().splitlines()[-1].partition(": ")[2]  # behind the name of the class
    return text


def quoted(text: str, limit: int = 80) -> str:
    """Shorten text from a stranger's file, and escape what would control the terminal."""
    shown = text if text.isprintable() else ascii(text[:limit])
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def listed(names: Sequence[str], shown: int = 3) -> str:
    """Quote the first few names, and count the others."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(quoted, names[:shown])) + more
