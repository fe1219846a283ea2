"""A list of the places that a run shall collect."""

import re
from pathlib import Path

from datasets.collect.plan import Plan
from utils.errors import UserError, quoted


def read_indices(path: Path, plan: Plan) -> list[int]:
    """Read numbers of places from text, one per line, or apart by commas or spaces.

    Returns:
        Ascending numbers of places that are asked for, at least one.
    """
    if plan.settings.format == "packed":  # a row's number is its place's among the whole block
        raise UserError(
            f"--indices_file {path} cannot be collected into a packed store, which takes whole "
            "blocks of places: use --format folder, and datasets/seco_packed.py later"
        )
    try:
        words = re.split(r"[\s,]+", path.read_text(encoding="utf-8-sig").strip(" \t\r\n,"))
    except OSError as error:
        raise UserError(
            f"--indices_file {path} cannot be read: {error.strerror}: check it"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"--indices_file {path} is no text: list numbers of places") from error
    if words == [""]:
        raise UserError(f"--indices_file {path} is empty: list numbers of places")
    seen: set[int] = set()
    for word in words:
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= plan.num_places:
            raise UserError(
                f"--indices_file {path} has {quoted(word)}: numbers of places are from 0 to "
                f"{plan.num_places - 1}"
            )
        if int(word) in seen:
            raise UserError(f"--indices_file {path} has {int(word)} twice: take one away")
        seen.add(int(word))
    return sorted(seen)
