"""Labels of BigEarthNet against the published nomenclature."""

import numpy as np
import pytest

from datasets.bigearthnet.labels import CLASS_NAMES, LABELS_19, LABELS_43, multi_hot
from utils.errors import UserError

# Column of the 19 for each of the 43 in alphabetical order, read off table 2 of Sumbul et al. 2021;
# -1: dropped.
COLUMN_OF = [
    *(7, -1, 3, -1, 14, 8, -1, 18, 5, 9, -1, 0, 0, -1, 18, 3, -1, 1, 15, -1, 6, -1, 10, 12, 11, 2),
    *(3, 4, 15, 2, -1, 2, -1, 16, 16, 12, 18, 11, -1, 13, 3, 17, 17),
]


def test_there_are_43_names_in_alphabetical_order() -> None:
    assert len(set(LABELS_43)) == 43
    assert list(LABELS_43) == sorted(LABELS_43)
    assert (LABELS_43[0], LABELS_43[24], LABELS_43[42]) == (
        *("Agro-forestry areas", "Natural grassland", "Water courses"),
    )


def test_columns_of_the_19_are_in_the_published_order() -> None:
    assert len(LABELS_19) == 19
    assert " ".join(name.split()[0] for name in LABELS_19) == (
        "Urban Industrial Arable Permanent Pastures Complex Land Agro-forestry Broad-leaved "
        "Coniferous Mixed Natural Moors, Transitional Beaches, Inland Coastal Inland Marine"
    )


@pytest.mark.parametrize(("name", "column"), list(zip(LABELS_43, COLUMN_OF, strict=True)))
def test_each_of_the_43_goes_to_its_class_of_the_19_or_is_dropped(name: str, column: int) -> None:
    expected = np.zeros((1, 19), np.uint8)
    expected[0, column if column >= 0 else []] = 1
    assert (multi_hot(["patch"], [[name]], 19) == expected).all()


def test_43_classes_keep_every_label() -> None:
    assert (multi_hot(LABELS_43, [[name] for name in LABELS_43], 43) == np.eye(43)).all()


def test_labels_of_version_2_are_the_19_themselves() -> None:
    assert (multi_hot(LABELS_19, [[name] for name in LABELS_19], 19) == np.eye(19)).all()


def test_several_labels_of_one_class_count_once() -> None:
    labels = ["Salines", "Salt marshes", "Pastures", "Airports"]
    assert multi_hot(["patch"], [labels], 19).sum() == 2
    assert multi_hot(["patch"], [labels], 43).sum() == 4


def test_an_unknown_label_names_the_patch_and_itself() -> None:
    with pytest.raises(UserError, match=r"patch_2 has the unknown label 'Moonscape'"):
        multi_hot(["patch_1", "patch_2"], [["Pastures"], ["Moonscape"]], 19)


def test_43_classes_of_version_2_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"p is labelled 'Arable land'.*use --num_classes 19"):
        multi_hot(["p"], [["Arable land"]], 43)
    assert CLASS_NAMES[43] == LABELS_43
