"""Progress bar of long work."""

import sys
from collections.abc import Iterable
from threading import RLock
from typing import Any

from tqdm import tqdm

from utils.launchers import launched_rank

# Forked processes share tqdm's own lock: one that is killed while it draws would stop the others.
tqdm.set_lock(RLock())
_REFRESH_S = 0.5  # on a terminal
_REFRESH_LOG_S = 30.0  # in a log file, where every refresh is a line


def progress(iterable: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """Return a bar of tqdm that is refreshed rarely in a log; of several processes, one shows it.

    Args:
        iterable: Items to count; None for a bar that is updated by hand.
        settings: Further arguments of ``tqdm``.
    """
    interval = _REFRESH_S if sys.stderr.isatty() else _REFRESH_LOG_S
    is_other = launched_rank() > 0
    return tqdm(iterable, mininterval=interval, dynamic_ncols=True, disable=is_other, **settings)
