"""The progress of long work: what is done, how fast, and how long it still takes."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from utils.launchers import launched_rank

_REFRESH_S = 0.5  # on a terminal
_REFRESH_LOG_S = 30.0  # in a log file, where every refresh is a line


def progress(iterable: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """Return a bar that takes tqdm's settings, and is refreshed rarely where nobody watches.

    Of several processes that train together, the first one shows it.
    """
    interval = _REFRESH_S if sys.stderr.isatty() else _REFRESH_LOG_S
    is_other = launched_rank() > 0
    return tqdm(iterable, mininterval=interval, dynamic_ncols=True, disable=is_other, **settings)
