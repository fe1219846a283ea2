"""Labels of BigEarthNet against the published nomenclature."""

import numpy as np
import pytest

from datasets.bigearthnet.facts import GROUP_LABELS, LABELS, NEW_LABELS, multi_hot
from utils.errors import UserError

# Column of the 19 for each of the 43 in alphabetical order, read off table 2 of Sumbul et al. 2021;
# -1: dropped.
COLUMN_OF = [
    *(7, -1, 3, -1, 14, 8, -1, 18, 5, 9, -1, 0, 0, -1, 18, 3, -1, 1, 15, -1, 6, -1, 10, 12, 11, 2),
    *(3, 4, 15, 2, -1, 2, -1, 16, 16, 12, 18, 11, -1, 13, 3, 17, 17),
]


def test_43_names_in_alphabetical_order_and_19_in_the_published_one() -> None:
    assert (len(set(LABELS)), len(set(NEW_LABELS))) == (43, 19)
    assert list(LABELS) == sorted(LABELS)
    assert (LABELS[0], LABELS[24], LABELS[42]) == (
        *("Agro-forestry areas", "Natural grassland", "Water courses"),
    )
    assert " ".join(name.split()[0] for name in NEW_LABELS) == (
        "Urban Industrial Arable Permanent Pastures Complex Land Agro-forestry Broad-leaved "
        "Coniferous Mixed Natural Moors, Transitional Beaches, Inland Coastal Inland Marine"
    )


def test_each_of_the_43_goes_to_its_class_of_the_19_or_is_dropped() -> None:
    expected = np.zeros((43, 19), np.uint8)
    for row, column in enumerate(COLUMN_OF):
        expected[row, column if column >= 0 else []] = 1
        new = GROUP_LABELS.get(LABELS[row], LABELS[row])
        assert (new in NEW_LABELS) == (column >= 0)
    assert (multi_hot(LABELS, [[name] for name in LABELS], 19) == expected).all()


@pytest.mark.parametrize("names", [LABELS, NEW_LABELS], ids=len)
def test_classes_keep_their_own_columns(names: tuple[str, ...]) -> None:
    count = len(names)
    assert (multi_hot(names, [[name] for name in names], count) == np.eye(count)).all()


def test_several_labels_of_one_class_count_once() -> None:
    labels = ["Salines", "Salt marshes", "Pastures", "Airports"]
    assert multi_hot(["patch"], [labels], 19).sum() == 2
    assert multi_hot(["patch"], [labels], 43).sum() == 4


@pytest.mark.parametrize(
    ("label", "num_classes", "message"),
    [
        ("Moonscape", 19, "patch_2 has the label 'Moonscape', which is not one of the 19"),
        ("Arable land", 43, "patch_2 has the label 'Arable land', .* use --num_classes 19"),
    ],
)
def test_a_label_that_has_no_column_is_named(label: str, num_classes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        multi_hot(["patch_1", "patch_2"], [["Pastures"], [label]], num_classes)
