"""Facts of OSCD (Daudt et al. 2018): its cities, bands and quantiles."""

from utils.input_spec import DataSpec

# In the order of the data set's own train.txt and test.txt (https://rcdaudt.github.io/oscd).
TRAIN_CITIES = (
    *("aguasclaras", "bercy", "bordeaux", "nantes", "paris", "rennes", "saclay_e", "abudhabi"),
    *("cupertino", "pisa", "beihai", "hongkong", "beirut", "mumbai"),
)
TEST_CITIES = (
    *("brasilia", "montpellier", "norcia", "rio", "saclay_w", "valencia", "dubai", "lasvegas"),
    *("milano", "chongqing"),
)
# Quantiles of the digital numbers. B2, B3, B4 are the original SeCo's, which SSL4EO-S12 completed:
# https://github.com/zhu-xlab/SSL4EO-S12/blob/44399c4fc57485c86b0ec8b9105e5a72660e75c5/src/benchmark/transfer_change_detection/datasets/oscd_dataset.py
BAND_QUANTILES = {
    "B1": (1194.0, 2456.0),
    "B2": (885.0, 2620.0),
    "B3": (667.0, 2969.0),
    "B4": (426.0, 3698.0),
    "B5": (392.0, 3803.0),
    "B6": (358.0, 3994.0),
    "B7": (349.0, 4261.0),
    "B8": (290.0, 4141.0),
    "B8A": (310.0, 4435.0),
    "B9": (96.0, 1589.0),
    "B10": (7.0, 51.0),
    "B11": (155.0, 5043.0),
    "B12": (109.0, 4238.0),
}
OSCD_DATA = DataSpec(
    "OSCD",
    tuple(BAND_QUANTILES),
    low=tuple(low for low, _ in BAND_QUANTILES.values()),
    high=tuple(high for _, high in BAND_QUANTILES.values()),
)
