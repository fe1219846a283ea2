"""The error of a user, and the one sentence that a script prints for an error."""

import errno
import os
import re
from collections.abc import Sequence

# Texts of torch 2.11: torch/utils/data/dataloader.py, torch/csrc/DataLoader.cpp and, with the name
# of a file in /dev/shm, aten/src/ATen/MapAllocator.cpp.
_LOADER_LOST = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)")
_SHARED_MEMORY = re.compile(r"is killed by signal: Bus error|unable to .*(shared memory|</torch_)")
# Of gloo (transport/tcp/pair.cc), NCCL (ncclRemoteError) and torch's store (TCPStore.cpp).
_PEER_LOST = re.compile(
    r"(closed|reset) by peer|remote process exited|remote server shutdown|failed to recv"
)
LOST_PROCESS = os.EX_OSERR  # exit code of a run that has lost one of its processes
# Exceptions of parsing JSON that another program has written, and of using its values.
NOT_AS_WRITTEN = (
    *(ValueError, LookupError, TypeError),
    *(AttributeError, ArithmeticError, RecursionError),
)
_LONGEST = 2000  # characters of a text that is printed
# What the user can do about an error of the operating system that concerns a path.
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
    errno.ESTALE: "start again, the network disk has lost the file",
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "raise the limit of open files (ulimit -n), or use fewer --num_workers",
    ),
}


class UserError(Exception):
    """Invalid input; the text is one sentence that names the cause and the remedy."""


class WriteError(UserError):
    """A file that could not be written; the previous one, if any, is as it was."""


def os_error_sentence(error: OSError, path: object = None) -> str:
    """Describe an error of the operating system and its remedy; empty for one without a path.

    Args:
        error: The error.
        path: What it concerns, if not the path that the error names.
    """
    where = error.filename if path is None else path
    remedy = _REMEDIES.get(error.errno or 0, "" if where is None else "correct the path")
    reason = f"{error.strerror or error}: {remedy}"
    return "" if not remedy else reason if where is None else f"{quoted(str(where), 500)}: {reason}"


def sentence_of(error: Exception) -> str:
    """Return the sentence for an error of the user or of the machine; empty for a bug."""
    text = str(error)
    if isinstance(error, UserError):
        if text.startswith("Caught ") and "\nOriginal " in text:  # with torch's own traceback
            return text.rstrip().splitlines()[-1].partition(": ")[2]  # after the name of the class
        return text
    if isinstance(error, OSError):
        return os_error_sentence(error)
    # Torch's, on the CPU (oneDNN's without a reason) and on a GPU.
    is_full = "DefaultCPUAllocator: " in text or text == "could not create a primitive"
    is_full = is_full or type(error).__name__ == "OutOfMemoryError"
    if is_full or isinstance(error, MemoryError):
        return "out of memory: lower the sizes, such as --batch_size"
    if has_lost_process(error):
        return "another process of the run has ended: its last lines, or the system's log, say why"
    text += f"\n{error.__cause__}"  # the cause names the signal
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
    return ""


def has_lost_process(error: Exception) -> bool:
    """Return whether another process of the run has ended, which the same command may survive."""
    return isinstance(error, RuntimeError) and bool(_PEER_LOST.search(str(error)))


def printable(text: str) -> str:
    """Escape line breaks and characters that control the terminal, and cut what is too long.

    A sentence ends with its remedy, so that the middle is left out.
    """
    if len(text) > _LONGEST:
        text = f"{text[: 3 * _LONGEST // 4]} ... {text[-_LONGEST // 4 :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def quoted(text: str, limit: int = 80) -> str:
    """Shorten text from an unknown file, and escape it if it is not printable.

    Args:
        text: Text from outside, such as a file's content or a server's answer.
        limit: Characters that are kept.
    """
    shown = text if text.isprintable() else ascii(text[:limit])
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def listed(names: Sequence[str], shown: int = 3) -> str:
    """Quote the first names of a list and count the others.

    Args:
        names: Names from outside.
        shown: Number of names that are quoted.
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(quoted, names[:shown])) + more
