"""Every public name of the original at the original's path.

The names are those of ServiceNow/seasonal-contrast at 411e37e. Names that are left out on purpose
are in docs/differences.md.
"""

import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "datasets.seco_dataset": "ALL_BANDS RGB_BANDS QUANTILES normalize read_image "
    "SeasonalContrastBase SeasonalContrastBasic SeasonalContrastTemporal SeasonalContrastMultiAug",
    "datasets.seco_datamodule": "SeasonalContrastBaseDataModule SeasonalContrastBasicDataModule "
    "SeasonalContrastTemporalDataModule SeasonalContrastMultiAugDataModule",
    "datasets.seco_utils": "compute_quantiles",
    "datasets.bigearthnet_dataset": "ALL_BANDS RGB_BANDS BAND_STATS LABELS NEW_LABELS "
    "GROUP_LABELS Bigearthnet",
    "datasets.bigearthnet_datamodule": "BigearthnetDataModule",
    "datasets.eurosat_dataset": "EurosatDataset",
    "datasets.eurosat_datamodule": "EurosatDataModule",
    "datasets.oscd_dataset": "ALL_BANDS RGB_BANDS QUANTILES ChangeDetectionDataset",
    "datasets.oscd_datamodule": "RandomFlip RandomRotation RandomSwap ToTensor Compose "
    "ChangeDetectionDataModule",
    "models.moco2_module": "MocoV2",
    "models.segmentation": "get_segmentation_model SegmentationEncoder UNet",
    "utils.data": "Subset random_subset InfiniteDataLoader",
    "utils.transforms": "ApplyN",
}
LEFT_OUT = {
    "datasets.bigearthnet_dataset": "normalize",
    "datasets.oscd_dataset": "read_image",
    "models.moco2_module": "concat_all_gather batch_shuffle_ddp batch_unshuffle_ddp",
    "models.segmentation": "DoubleConv Down Up OutConv UNetSmall",
    "utils.data": "LMDBDataset make_lmdb",
}
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


@pytest.mark.difference("names", "names-ddp", "evaluation-names", "decoder-names")
@pytest.mark.parametrize("module", NAMES)
def test_names_of_the_original_are_kept_with_their_parameters_or_documented(module: str) -> None:
    found, differences = importlib.import_module(module), ROOT / "docs/differences.md"
    for name in NAMES[module].split():
        assert hasattr(found, name), name
        expected = PARAMETERS.get(name, "").split()
        if expected:
            signature = inspect.signature(getattr(found, name))
            assert list(signature.parameters)[: len(expected)] == expected
    for name in LEFT_OUT.get(module, "").split():
        assert not hasattr(found, name), name
        assert f"`{name}`" in differences.read_text(), name


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
