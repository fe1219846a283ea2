"""Facts of BigEarthNet: its bands, its two sets of classes, and the pictures that are made of it.

The 43 classes are CORINE's of level 3 (Sumbul et al. 2019), the 19 group most of them (Sumbul et
al. 2021). Both are in the order of the original code (ServiceNow/seasonal-contrast,
datasets/bigearthnet_dataset.py). Eleven of the 43 belong to none of the 19.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets.bands import ALL_BANDS, RESOLUTION_M, two_digit_name
from utils.errors import UserError
from utils.flags import Parser
from utils.input_spec import DataSpec

if TYPE_CHECKING:
    import numpy as np

V1_FOLDER, V2_FOLDER = "BigEarthNet-v1.0", "BigEarthNet-S2"
# A patch is a square of 1,200 m; 120, 60 or 20 px at 10, 20 or 60 m.
SIDE_PX = {band: 1200 // resolution_m for band, resolution_m in RESOLUTION_M.items()}
IMAGE_SIZE = 128  # px, side of a picture in the original
# Ends of the file names, and keys in the LMDB.
FILE_NAMES = {band: two_digit_name(band) for band in ALL_BANDS}

# Mean and standard deviation of the DN: the authors' own (BigEarthNet.py of
# git.tu-berlin.de/rsim/bigearthnet-models-tf), which the original and torchgeo use too.
MEAN_AND_STD = {
    "B1": (340.76769064, 554.81258967),
    "B2": (429.9430203, 572.41639287),
    "B3": (614.21682446, 582.87945694),
    "B4": (590.23569706, 675.88746967),
    "B5": (950.68368468, 729.89827633),
    "B6": (1792.46290469, 1096.01480586),
    "B7": (2075.46795189, 1273.45393088),
    "B8": (2218.94553375, 1365.45589904),
    "B8A": (2266.46036911, 1356.13789355),
    "B9": (2246.0605464, 1302.3292881),
    "B11": (1594.42694882, 1079.19066363),
    "B12": (1009.32729131, 818.86747235),
}
# The original makes pictures of mean - 2 std .. mean + 2 std.
BIGEARTHNET_SPEC = DataSpec(
    name="BigEarthNet",
    bands=ALL_BANDS,
    low=tuple(mean - 2 * std for mean, std in (MEAN_AND_STD[band] for band in ALL_BANDS)),
    high=tuple(mean + 2 * std for mean, std in (MEAN_AND_STD[band] for band in ALL_BANDS)),
)

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
NEW_LABELS = tuple(_GROUPS)
LABELS = tuple(sorted([*(name for group in _GROUPS.values() for name in group), *_UNGROUPED]))
CLASS_NAMES = {19: NEW_LABELS, 43: LABELS}
# CORINE class -> its class of the 19, where the two names differ.
GROUP_LABELS = {name: new for new, group in _GROUPS.items() for name in group if name != new}
# Label -> its column, or None for labels that belong to none of the 19.
_COLUMNS: dict[int, dict[str, int | None]] = {
    19: {
        **dict.fromkeys(_UNGROUPED),
        **{name: column for column, name in enumerate(NEW_LABELS)},
        **{name: NEW_LABELS.index(new) for name, new in GROUP_LABELS.items()},
    },
    43: {name: column for column, name in enumerate(LABELS)},
}


def add_bigearthnet_args(parser: Parser) -> None:
    """Add the flags of the pictures and their labels."""
    add = parser.group("data").add_argument
    add("--lmdb", action="store_true", help="Read the LMDB of datasets/bigearthnet_dataset.py.")
    add(
        "--num_classes",
        type=int,
        choices=CLASS_NAMES,
        default=19,
        help="Number of classes; 43 exist in version 1 only.",
    )
    add("--image_size", type=int, default=IMAGE_SIZE, help="Side of a picture in pixels.")


def multi_hot(
    names: Sequence[str], labels: Sequence[Sequence[str]], num_classes: int
) -> np.ndarray:
    """Turn label names into rows of 0 and 1.

    Args:
        names: Name of each patch, for the error.
        labels: Label names of each patch, of either set of classes if ``num_classes`` is 19.
        num_classes: 19 or 43.

    Returns:
        uint8, shape (N, C), columns in the order of ``CLASS_NAMES[num_classes]``; a patch without
        any of the 19 classes has a row of zeros.

    Raises:
        UserError: A label is unknown.
    """
    import numpy as np  # flags are parsed without it

    columns = _COLUMNS[num_classes]
    targets = np.zeros((len(names), num_classes), np.uint8)
    for row, (name, own) in enumerate(zip(names, labels, strict=True)):
        for label in own:
            if label not in columns:
                raise _unknown(name, label)
            column = columns[label]
            if column is not None:
                targets[row, column] = 1
    return targets


def _unknown(name: str, label: str) -> UserError:
    if label in NEW_LABELS:
        return UserError(
            f"{name} has the label {label!r}, one of the 19 classes, which are the only ones in "
            "BigEarthNet v2: use --num_classes 19"
        )
    return UserError(
        f"{name} has the unknown label {label!r}: BigEarthNet's labels are the {len(LABELS)} "
        f"CORINE names, or the {len(NEW_LABELS)} classes that they are grouped into"
    )


def check_band(band: str, dtype: object, shape: tuple[int, ...], where: str) -> None:
    """Check that a band holds uint16 digital numbers and is as large as BigEarthNet's.

    Args:
        band: Name such as "B2".
        dtype: Type of the stored values.
        shape: Height and width in pixels.
        where: File or key of the band, for the error.

    Raises:
        UserError: The type or the size is another one.
    """
    side = SIDE_PX[band]
    if str(dtype) != "uint16":
        raise UserError(
            f"{where} holds {dtype} values, but BigEarthNet stores digital numbers (10,000 times "
            "reflectance) as uint16: use the original files"
        )
    if shape != (side, side):
        size = " x ".join(map(str, shape))
        raise UserError(f"{where} has {size} px, {band} of BigEarthNet {side} x {side}: replace it")
