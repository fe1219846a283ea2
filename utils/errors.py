"""The error of a user, as opposed to a bug, and its one-line message."""

import errno
import re
from collections.abc import Sequence

# Texts of torch 2.11: torch/utils/data/dataloader.py, torch/csrc/DataLoader.cpp and, with the name
# of a file in /dev/shm, aten/src/ATen/MapAllocator.cpp.
_LOADER_LOST = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)")
_SHARED_MEMORY = re.compile(r"is killed by signal: Bus error|unable to .*(shared memory|</torch_)")

# What the user can do about an error of the operating system that concerns a path. Errors that are
# not listed are bugs, and keep their traceback.
_REMEDIES = {
    errno.ENOSPC: "free some space on this disk, or choose another one",
    errno.EDQUOT: "free some space within your quota, or choose another disk",
    errno.EROFS: "choose a path on a disk that is not read-only",
    errno.EACCES: "change the permissions, or choose another path",
    errno.EPERM: "change the permissions, or choose another path",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "choose another path, one of its folders is a file",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "move the existing file away, or choose another path",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk",
    errno.ELOOP: "remove the circle of symbolic links",
    errno.ENXIO: "name a regular file, not a socket or device",
    errno.EIO: "check the disk, which reports a fault",
}


class UserError(Exception):
    """Invalid input. Its text is one sentence that names the cause and the remedy.

    Entry scripts print the sentence and leave with a non-zero exit code (``utils.cli.run``); a bug
    keeps its traceback.
    """


def os_error_sentence(error: OSError, path: object = None) -> str | None:
    """Describe an error of the operating system and its remedy.

    Args:
        error: The error.
        path: What it concerns, if not the path that the error names.

    Returns:
        One sentence; None for an error that a user cannot remedy.
    """
    reason = remedy_sentence(error)
    where = error.filename if path is None else path
    return reason if reason is None or where is None else f"{quoted(str(where), 500)}: {reason}"


def remedy_sentence(error: OSError) -> str | None:
    """Return the cause of an error and its remedy, without the path; None if there is no remedy."""
    remedy = _REMEDIES.get(error.errno or 0)
    return None if remedy is None else f"{error.strerror}: {remedy}"


def sentence_of(error: UserError) -> str:
    """Return the sentence of an error; torch adds the traceback to one of a loader process."""
    text = str(error)
    if text.startswith("Caught ") and "\nOriginal " in text:  # which may begin with its cause
        return text.rstrip().splitlines()[-1].partition(": ")[2]  # after the name of the class
    return text


def loader_sentence(error: RuntimeError) -> str | None:
    """Return the remedy for a lost loader process; None for any other error of torch."""
    text = f"{error}\n{error.__cause__}"  # the cause names the signal
    if _SHARED_MEMORY.search(text):
        return (
            "the shared memory (/dev/shm) is too small for the loader processes: use "
            "--num_workers 0, or give a container more, for example docker run --shm-size 8g"
        )
    if _LOADER_LOST.search(text):
        return (
            "a loader process was killed, perhaps because the memory is full: use fewer "
            "--num_workers, 0 reads without processes"
        )
    return None


def quoted(text: str, limit: int = 80) -> str:
    """Shorten text from an unknown file, and escape characters that control the terminal.

    Args:
        text: Any text.
        limit: Number of characters to keep.
    """
    shown = text if text.isprintable() else ascii(text[:limit])
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def listed(names: Sequence[str], shown: int = 3) -> str:
    """Quote the first names and count the others.

    Args:
        names: All names.
        shown: Number of names to quote.
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(quoted, names[:shown])) + more
