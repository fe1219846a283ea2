"""BigEarthNet's labels: 43 CORINE classes of level 3, and the 19 that they are grouped into.

Both nomenclatures are the published ones (Sumbul et al. 2019, 2021), in the order of the original
code (ServiceNow/seasonal-contrast, datasets/bigearthnet_dataset.py). Eleven of the 43 are in none
of the 19; a patch that has no other label is a matter for ``datasets.bigearthnet.index``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.flags import Parser

if TYPE_CHECKING:
    import numpy as np

# Class of the 19 -> the CORINE classes that it consists of.
_GROUPS: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": (
        "Natural grassland",
        "Sparsely vegetated areas",
    ),
    "Moors, heathland and sclerophyllous vegetation": (
        "Moors and heathland",
        "Sclerophyllous vegetation",
    ),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
_UNGROUPED = (
    *("Airports", "Bare rock", "Burnt areas", "Construction sites", "Dump sites"),
    *("Green urban areas", "Intertidal flats", "Mineral extraction sites", "Port areas"),
    *("Road and rail networks and associated land", "Sport and leisure facilities"),
)
LABELS_19 = tuple(_GROUPS)
LABELS_43 = tuple(sorted([*(name for group in _GROUPS.values() for name in group), *_UNGROUPED]))
CLASS_NAMES = {19: LABELS_19, 43: LABELS_43}
IMAGE_SIZE = 128  # px, side of a picture in the original


def add_bigearthnet_args(parser: Parser) -> None:
    """Add the flags of the pictures and their labels."""
    add = parser.group("data").add_argument
    add("--lmdb", action="store_true", help="Read the LMDB of datasets/bigearthnet_dataset.py.")
    add(
        "--num_classes",
        type=int,
        choices=CLASS_NAMES,
        default=19,
        help="Classes of the labels; 43 are those of version 1 only.",
    )
    add("--image_size", type=int, default=IMAGE_SIZE, help="Pixels along one side of a picture.")


# Label -> its column, or None for labels that count as no class of the 19.
_Columns = dict[str, int | None]
_COLUMNS_43: _Columns = {name: column for column, name in enumerate(LABELS_43)}
_COLUMNS_19: _Columns = {
    **dict.fromkeys(_UNGROUPED),
    **{name: column for column, group in enumerate(_GROUPS.values()) for name in group},
    **{name: column for column, name in enumerate(LABELS_19)},
}
_COLUMNS = {19: _COLUMNS_19, 43: _COLUMNS_43}


def multi_hot(
    names: Sequence[str], labels: Sequence[Sequence[str]], num_classes: int
) -> np.ndarray:
    """Turn label names into rows of 0 and 1; an unknown name is a ``UserError``.

    Args:
        names: Name of each patch, for the error.
        labels: Label names of each patch, of either nomenclature if ``num_classes`` is 19.
        num_classes: 19 or 43.

    Returns:
        uint8, shape (N, C), columns in the order of ``CLASS_NAMES[num_classes]``; a patch without
        any of the 19 classes has a row of zeros.
    """
    columns = _COLUMNS[num_classes]
    import numpy as np  # the classes alone are needed to parse flags

    targets = np.zeros((len(names), num_classes), np.uint8)
    for row, (name, own) in enumerate(zip(names, labels, strict=True)):
        for label in own:
            if label not in columns:
                raise _unknown(name, label, num_classes)
            column = columns[label]
            if column is not None:
                targets[row, column] = 1
    return targets


def _unknown(name: str, label: str, num_classes: int) -> UserError:
    if label in LABELS_19:
        return UserError(
            f"{name} is labelled {label!r}, one of 19 classes, as all of BigEarthNet v2: "
            "use --num_classes 19"
        )
    return UserError(
        f"{name} has the unknown label {label!r}: BigEarthNet's labels are the {len(LABELS_43)} "
        f"CORINE names, or the {len(LABELS_19)} classes that they are grouped into"
    )
