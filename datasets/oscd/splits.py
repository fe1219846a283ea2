"""Splits of OSCD: the data set's own lists of cities, and the cities that validate."""

import warnings
from collections.abc import Container
from pathlib import Path

from datasets.oscd.facts import TEST_CITIES, TRAIN_CITIES
from datasets.oscd.files import DEPTHS, find_cities, visible
from utils.errors import UserError
from utils.files import read_list

_VALIDATION_EVERY = 4


def listed_cities(data_dir: Path) -> dict[str, list[str]]:
    """Return the cities of the splits "train", "test" and "all", in the order of their lists.

    A list that is absent stands for the data set's own. A city in both lists, or one without
    images, is a ``UserError``.
    """
    found = find_cities(data_dir)
    known = {*TRAIN_CITIES, *TEST_CITIES, *found}
    own = {"train": TRAIN_CITIES, "test": TEST_CITIES}
    lists = {split: _read_list(data_dir, split, known) for split in own}
    splits = {
        split: list(dict.fromkeys(own[split] if names is None else names))
        for split, names in lists.items()
    }
    both = sorted(set(splits["train"]) & set(splits["test"]))
    if both:
        raise UserError(f"{both[0]} is in train.txt and in test.txt of {data_dir}: remove one")
    splits["all"] = splits["train"] + splits["test"]
    missing = [name for name in sorted(splits["all"]) if name not in found]
    if missing:
        raise UserError(
            f"{len(missing)} of OSCD's cities have no images in {data_dir}: "
            f"{', '.join(missing[:5])}: add them, or write the cities that you have into train.txt "
            "and test.txt"
        )
    return splits


def city_splits(data_dir: Path) -> dict[str, list[str]]:
    """Return the names of the cities to train, validate and test on, each sorted.

    Of the training cities in alphabetical order the 4th, 8th, 12th and so on are for validation (of
    fewer than four, the last): beirut, hongkong and pisa of the real ones.
    """
    lists = listed_cities(data_dir)
    train, test = sorted(lists["train"]), sorted(lists["test"])
    if len(train) < 2 or not test:
        raise UserError(
            f"train.txt and test.txt of {data_dir} name {len(train)} and {len(test)} cities, but "
            "at least two to train and validate and one to test are needed"
        )
    val = train[_VALIDATION_EVERY - 1 :: _VALIDATION_EVERY] or train[-1:]
    return {"train": [name for name in train if name not in val], "val": val, "test": test}


def _read_list(data_dir: Path, split: str, known: Container[str]) -> list[str] | None:
    """Read ``<split>.txt``, names between commas or line ends; None where there is no such file.

    A list of another data set, which names none of the known cities, is ignored with a warning.
    """
    for path in (path for depth in DEPTHS for path in visible(data_dir, f"{depth}{split}.txt")):
        try:
            text = read_list(path.read_bytes(), path)
        except (UserError, OSError) as error:
            if path.parent == data_dir:
                raise
            warnings.warn(f"a list is ignored: {error}", stacklevel=2)
            continue
        names = [name.strip() for name in text.replace(",", "\n").split("\n") if name.strip()]
        if not names or any(name in known for name in names):
            return names
        warnings.warn(f"{path} is ignored: it names none of OSCD's cities", stacklevel=2)
    return None
