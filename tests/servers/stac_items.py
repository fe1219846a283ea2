"""Items of a STAC catalogue for tests: two dates, and copies with a change."""

import copy
from collections.abc import Callable
from datetime import date
from typing import Any

EARLY, LATE = date(2022, 1, 11), date(2022, 2, 1)  # before and after products have an offset


def edited(item: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    new = copy.deepcopy(item)
    change(new)
    return new
