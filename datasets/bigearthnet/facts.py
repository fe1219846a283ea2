"""Facts of BigEarthNet: its bands, their stretch, and its two sets of classes.

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

# Class of the 19 -> the CORINE classes that it consists of; without any, the one of its own name.
_GROUPS: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": (),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        *("Vineyards", "Fruit trees and berry plantations", "Olive groves"),
        "Annual crops associated with permanent crops",
    ),
    "Pastures": (),
    "Complex cultivation patterns": (),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (),
    "Agro-forestry areas": (),
    "Broad-leaved forest": (),
    "Coniferous forest": (),
    "Mixed forest": (),
    "Natural grassland and sparsely vegetated areas": (
        *("Natural grassland", "Sparsely vegetated areas"),
    ),
    "Moors, heathland and sclerophyllous vegetation": (
        *("Moors and heathland", "Sclerophyllous vegetation"),
    ),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": (),
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
# CORINE class -> its class of the 19, where the two names differ.
GROUP_LABELS = {name: new for new, group in _GROUPS.items() for name in group}
LABELS = tuple(
    sorted([*GROUP_LABELS, *(new for new, group in _GROUPS.items() if not group), *_UNGROUPED])
)
CLASS_NAMES = {19: NEW_LABELS, 43: LABELS}


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
    """Return 1 where a patch has a class, uint8, (N, C), C in the order of ``CLASS_NAMES``.

    Args:
        names: Name of each patch, for the error.
        labels: Label names of each patch, of either set of classes if ``num_classes`` is 19.
        num_classes: 19 or 43.

    Raises:
        UserError: A label is not one of the classes.
    """
    import numpy as np  # flags are parsed without it

    column_of = {name: column for column, name in enumerate(CLASS_NAMES[num_classes])}
    if num_classes == len(NEW_LABELS):
        column_of |= {label: column_of[new] for label, new in GROUP_LABELS.items()}
        column_of |= dict.fromkeys(_UNGROUPED, num_classes)  # a column that is cut off
    targets = np.zeros((len(names), num_classes + 1), np.uint8)
    for row, (name, own) in enumerate(zip(names, labels, strict=True)):
        for label in own:
            if label not in column_of:
                raise UserError(
                    f"{name} has the label {label!r}, which is not one of the {num_classes} "
                    "classes: correct it; for labels of BigEarthNet v2 use --num_classes 19"
                )
            targets[row, column_of[label]] = 1
    return targets[:, :num_classes]


def check_band(band: str, dtype: object, shape: tuple[int, ...], where: str) -> None:
    """Refuse a band that is not uint16 digital numbers or has another size than BigEarthNet's.

    Args:
        band: Name such as "B2".
        dtype: Type of the stored values.
        shape: Height and width in pixels.
        where: File or key of the band, for the error.
    """
    side = SIDE_PX[band]
    if str(dtype) != "uint16" or shape != (side, side):
        raise UserError(
            f"{where} holds {dtype} values of {' x '.join(map(str, shape))} px, but {band} of "
            f"BigEarthNet has {side} x {side} digital numbers (10,000 times reflectance) as "
            "uint16: use the original file"
        )
