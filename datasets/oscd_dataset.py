"""OSCD (Daudt et al. 2018): what was built in 24 cities between two dates of Sentinel-2, level 1C.

Splits are those of the data set, 14 cities to train and 10 to test. Of the training cities in
alphabetical order the 4th, 8th, 12th and so on are for validation (of fewer than four, the last):
beirut, hongkong and pisa of the real ones.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.oscd.cities import TEST_CITIES, TRAIN_CITIES
from datasets.oscd.files import City, find_cities, read_city, read_city_list
from utils.data import sample_keys, uniform
from utils.errors import UserError
from utils.input_spec import DataSpec, InputTransform

# Quantiles of the digital numbers. B2, B3, B4 are the original SeCo's, which SSL4EO-S12 completed:
# https://github.com/zhu-xlab/SSL4EO-S12/blob/44399c4fc57485c86b0ec8b9105e5a72660e75c5/src/benchmark/transfer_change_detection/datasets/oscd_dataset.py
QUANTILES = {
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
    tuple(QUANTILES),
    low=tuple(low for low, _ in QUANTILES.values()),
    high=tuple(high for _, high in QUANTILES.values()),
)
_VALIDATION_EVERY = 4

# Both dates, uint8, (C, H, W) each; whether pixels changed, and whether they count, bool, (H, W).
Sample = tuple[Tensor, Tensor, Tensor, Tensor]


def city_splits(data_dir: Path) -> dict[str, list[str]]:
    """Return the names of the cities to train, validate and test on, each sorted.

    A name in two lists or a listed city without images is a ``UserError``.
    """
    known = {"train": TRAIN_CITIES, "test": TEST_CITIES}
    found = find_cities(data_dir)
    cities = {*TRAIN_CITIES, *TEST_CITIES, *found}
    lists = {split: read_city_list(data_dir, split, cities) for split in known}
    train, test = (
        sorted(set(known[split] if names is None else names)) for split, names in lists.items()
    )
    leaked = sorted(set(train) & set(test))
    if leaked:
        raise UserError(f"{leaked[0]} is in train.txt and in test.txt of {data_dir}: remove one")
    missing = [name for name in (*train, *test) if name not in found]
    if missing:
        raise UserError(
            f"{len(missing)} of OSCD's cities have no images in {data_dir}: "
            f"{', '.join(missing[:5])}: add them, or write the cities that you have into train.txt "
            "and test.txt"
        )
    if len(train) < 2 or not test:
        raise UserError(
            f"train.txt and test.txt of {data_dir} name {len(train)} and {len(test)} cities: two "
            "to train and validate and one to test are needed at least"
        )
    val = train[_VALIDATION_EVERY - 1 :: _VALIDATION_EVERY] or train[-1:]
    return {"train": [name for name in train if name not in val], "val": val, "test": test}


def read_cities(
    data_dir: Path, names: Sequence[str], transform: InputTransform, *, aligned: bool = True
) -> list[City]:
    """Read cities into memory, see ``read_city``; the 24 take 20 MB per band."""
    found = find_cities(data_dir)
    return [read_city(name, found[name], transform, aligned=aligned) for name in names]


class ChangeDetectionDataset(Dataset[Sample]):
    """Square tiles of cities, side by side; those at the right and lower border are filled up.

    With ``seed``, samples are asked for as (epoch, index), and flipped and turned by a draw of
    (seed, epoch, index): the same in any order and any process.

    Args:
        cities: Where the tiles are cut from.
        patch_size: Side of a tile in pixels.
        seed: Seed of the augmentation; None for none.
        score_padding: Whether the filling counts, as unchanged, which it does in the original.

    Attributes:
        tiles: Number of the city, first row and first column of every tile.
    """

    def __init__(
        self,
        cities: Sequence[City],
        patch_size: int,
        *,
        seed: int | None = None,
        score_padding: bool = False,
    ) -> None:
        self.cities = cities
        self.patch_size = patch_size
        self.seed = seed
        self.score_padding = score_padding
        self.tiles = [
            (number, row, column)
            for number, city in enumerate(cities)
            for row in range(0, city.mask.shape[0], patch_size)
            for column in range(0, city.mask.shape[1], patch_size)
        ]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = (0, key) if isinstance(key, int) else key
        planes = self._cut(*self.tiles[index])
        if self.seed is not None:
            planes = augment(planes, self.seed, epoch, index)
        parts = np.split(planes, [(len(planes) - 2) // 2, len(planes) - 2])
        image_1, image_2, (mask, valid) = (torch.from_numpy(part) for part in parts)
        return image_1, image_2, mask.bool(), valid.bool()

    def has_change(self) -> Tensor:
        """Tell whether a pixel of each tile changed: bool, shape (N,)."""
        side = self.patch_size
        return torch.tensor(
            [
                bool(self.cities[city].mask[row : row + side, column : column + side].any())
                for city, row, column in self.tiles
            ]
        )

    def keep(self, rows: Tensor) -> None:
        """Forget all tiles but those with these numbers."""
        self.tiles = [self.tiles[row] for row in rows.tolist()]

    def _cut(self, number: int, row: int, column: int) -> np.ndarray:
        """Stack both dates, mask and validity of a tile: uint8, (2 C + 2, side, side)."""
        city, side = self.cities[number], self.patch_size
        whole = (*city.image_1, *city.image_2, city.mask)
        planes = np.zeros((len(whole) + 1, side, side), np.uint8)
        part = city.mask[row : row + side, column : column + side]
        inside = (slice(part.shape[0]), slice(part.shape[1]))
        for plane, source in zip(planes, whole, strict=False):
            plane[inside] = source[row : row + side, column : column + side]
        planes[-1][... if self.score_padding else inside] = 1
        return planes


class WholeCities(Dataset[Sample]):
    """Whole cities of any size, of which every pixel counts."""

    def __init__(self, cities: Sequence[City]) -> None:
        self.cities = cities

    def __len__(self) -> int:
        return len(self.cities)

    def __getitem__(self, index: int) -> Sample:
        city = self.cities[index]
        image_1, image_2 = torch.from_numpy(city.image_1), torch.from_numpy(city.image_2)
        mask = torch.from_numpy(city.mask)
        return image_1, image_2, mask, torch.ones_like(mask)


def augment(planes: np.ndarray, seed: int, epoch: int, index: int) -> np.ndarray:
    """Flip left to right or not, then turn by 0, 90, 180 or 270 degrees: (C, side, side)."""
    keys = sample_keys(seed, torch.tensor([epoch]), torch.tensor([index]))
    flip, turns = uniform(keys, stream=0, count=2)[0].tolist()
    if flip < 0.5:
        planes = planes[:, :, ::-1]
    return np.ascontiguousarray(np.rot90(planes, int(turns * 4), axes=(1, 2)))


def unchanged_per_changed(cities: Sequence[City]) -> float:
    """Return how many unchanged pixels there are to each changed one."""
    changed = sum(int(city.mask.sum()) for city in cities)
    if changed == 0:
        raise UserError(
            f"no pixel changed in {', '.join(city.name for city in cities)}: there is nothing to "
            "find, are these the right change maps?"
        )
    return (sum(city.mask.size for city in cities) - changed) / changed
