"""BigEarthNet's bands: their size, how files spell them, and the picture that is made of them."""

from datasets.bands import ALL_BANDS, RESOLUTION_M
from utils.errors import UserError
from utils.input_spec import DataSpec

# A patch is a square of 1,200 m; 120, 60 or 20 px at 10, 20 or 60 m.
SIDE_PX = {band: 1200 // resolution_m for band, resolution_m in RESOLUTION_M.items()}
# Ends of the file names, and keys in the LMDB: B2 -> B02, B8A stays.
FILE_NAMES = {band: f"B{band[1:]:0>2}" for band in ALL_BANDS}

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


def check_band(band: str, dtype: object, shape: tuple[int, ...], where: str) -> None:
    """Refuse a band that is not uint16 DN of its size; ``where`` names it in the error."""
    side = SIDE_PX[band]
    if str(dtype) != "uint16":
        raise UserError(
            f"{where} holds {dtype} values, but BigEarthNet stores digital numbers (10,000 times "
            "reflectance) as uint16: take the original files"
        )
    if shape != (side, side):
        size = " x ".join(map(str, shape))
        raise UserError(f"{where} has {size} px, {band} of BigEarthNet {side} x {side}: replace it")
