"""Every public name of the original's data sets and segmentation model, at the original's path.

The names are those of ServiceNow/seasonal-contrast at 411e37e. Names that are left out on purpose
are in docs/differences.md.
"""

import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "datasets.bigearthnet_dataset": [
        *("ALL_BANDS", "RGB_BANDS", "BAND_STATS", "LABELS", "NEW_LABELS", "GROUP_LABELS"),
        *("normalize", "Bigearthnet"),
    ],
    "datasets.bigearthnet_datamodule": ["BigearthnetDataModule"],
    "datasets.eurosat_dataset": ["EurosatDataset"],
    "datasets.eurosat_datamodule": ["EurosatDataModule"],
    "datasets.oscd_dataset": [
        *("ALL_BANDS", "RGB_BANDS", "QUANTILES", "read_image", "ChangeDetectionDataset"),
    ],
    "datasets.oscd_datamodule": [
        *("RandomFlip", "RandomRotation", "RandomSwap", "ToTensor", "Compose"),
        "ChangeDetectionDataModule",
    ],
    "models.segmentation": [
        *("get_segmentation_model", "SegmentationEncoder", "DoubleConv", "Down", "Up", "OutConv"),
        *("UNet", "UNetSmall"),
    ],
}
LEFT_OUT = {"normalize", "read_image", "DoubleConv", "Down", "Up", "OutConv", "UNetSmall"}
# Parameters of the original's constructors and functions, in their order.
PARAMETERS = {
    "Bigearthnet": "root split bands transform target_transform download use_new_labels",
    "BigearthnetDataModule": "data_dir bands train_frac val_frac lmdb batch_size num_workers seed",
    "EurosatDataset": "root split transform",
    "EurosatDataModule": "data_dir",
    "ChangeDetectionDataset": "root split bands transform patch_size",
    "ChangeDetectionDataModule": "data_dir patch_size",
    "get_segmentation_model": "backbone feature_indices feature_channels",
    "SegmentationEncoder": "backbone feature_indices feature_channels diff",
    "UNet": "encoder feature_channels n_classes concat_mult",
}


@pytest.mark.difference("evaluation-names", "decoder-names")
@pytest.mark.parametrize("module", NAMES)
def test_names_and_parameters_of_the_original_are_kept(module: str) -> None:
    found = importlib.import_module(module)
    for name in NAMES[module]:
        assert hasattr(found, name) != (name in LEFT_OUT), name
        if name in PARAMETERS:
            expected = PARAMETERS[name].split()
            assert list(inspect.signature(getattr(found, name)).parameters)[: len(expected)] == (
                expected
            )


def test_names_that_are_left_out_are_documented() -> None:
    differences = (ROOT / "docs/differences.md").read_text()
    assert all(f"`{name}`" in differences for name in LEFT_OUT)


def test_constants_have_the_values_of_the_original() -> None:
    from datasets import bigearthnet_dataset, oscd_dataset

    assert (
        *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    ) == bigearthnet_dataset.ALL_BANDS
    assert bigearthnet_dataset.RGB_BANDS == oscd_dataset.RGB_BANDS == ("B04", "B03", "B02")
    assert bigearthnet_dataset.BAND_STATS["mean"]["B03"] == 614.21682446
    assert bigearthnet_dataset.BAND_STATS["std"]["B8A"] == 1356.13789355
    assert [oscd_dataset.QUANTILES["min_q"][band] for band in ("B02", "B03", "B04")] == [
        *(885.0, 667.0, 426.0),
    ]
    assert [oscd_dataset.QUANTILES["max_q"][band] for band in ("B02", "B03", "B04")] == [
        *(2620.0, 2969.0, 3698.0),
    ]
