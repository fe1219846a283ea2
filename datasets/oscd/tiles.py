"""Cities in memory as samples: square tiles to train on, and whole images to score.

A sample is both dates, uint8, (C, H, W) each, whether pixels changed, and whether they count, bool,
(H, W) each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.oscd.files import City, city_splits, read_cities
from utils.data import sample_keys, uniform
from utils.errors import UserError
from utils.input_spec import InputTransform
from utils.report import digest_of
from utils.subset import stratified_subset

Sample = tuple[Tensor, Tensor, Tensor, Tensor]


class CityTiles(Dataset[Sample]):
    """Adjoining square tiles of cities; those at the right and lower border are padded with 0.

    With ``seed``, samples have the keys (epoch, index), and are flipped and rotated by a draw of
    (seed, epoch, index): the same in any order and any process. ``tiles`` has the number of the
    city, the first row and the first column of each.

    Args:
        cities: Where the tiles are cut from.
        patch_size: Side of a tile in pixels.
        seed: Seed of the augmentation; None for none.
        score_padding: Whether padding counts, as unchanged, which it does in the original.
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
        number, row, column = self.tiles[index]
        planes = cut_tile(self.cities[number], row, column, self.patch_size)
        if self.score_padding:
            planes[-1] = 1
        if self.seed is not None:
            keys = sample_keys(self.seed, torch.tensor([epoch]), torch.tensor([index]))
            flip, turns = uniform(keys, stream=0, count=2)[0].tolist()
            planes = planes[:, :, ::-1] if flip < 0.5 else planes  # left to right
            planes = np.ascontiguousarray(np.rot90(planes, int(turns * 4), axes=(1, 2)))
        parts = np.split(planes, [(len(planes) - 2) // 2, len(planes) - 2])
        image_1, image_2, (mask, valid) = (torch.from_numpy(part) for part in parts)
        return image_1, image_2, mask.bool(), valid.bool()

    def keep_share(self, frac: float, seed: int) -> None:
        """Keep a share of the tiles, drawn alike from those with and without change.

        Args:
            frac: Share to keep, above 0 and at most 1.
            seed: Seed of the draw.
        """
        side = self.patch_size
        has_change = [
            bool(self.cities[city].mask[row : row + side, column : column + side].any())
            for city, row, column in self.tiles
        ]
        rows = stratified_subset(torch.tensor(has_change).long(), frac, seed)
        self.tiles = [self.tiles[row] for row in rows.tolist()]


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


@dataclass(frozen=True)
class CitySplits:
    """Cities in memory to train, validate and test on, and the samples of each run.

    Attributes:
        cities: Cities of "train", "val" and "test".
        as_original: Whether all training cities train, tiles of the test cities validate, and
            padding counts as unchanged.
    """

    cities: dict[str, list[City]]
    as_original: bool

    def describe(self) -> dict[str, Any]:
        """Return the number of cities per split, and a digest of their names and sizes."""
        lines = [
            f"{split} {city.name} {city.mask.shape} {city.mask.sum()}"
            for split, each in self.cities.items()
            for city in each
        ]
        counts = {split: len(each) for split, each in self.cities.items()}
        return {**counts, "digest": digest_of(lines)}

    def samples(
        self, patch_size: int, seed: int, frac: float
    ) -> tuple[CityTiles, CityTiles | WholeCities]:
        """Return the training tiles of a run, and what it validates on.

        Args:
            patch_size: Side of a tile in pixels.
            seed: Seed of the augmentation and of the share.
            frac: Share of the tiles, 0 < frac <= 1.
        """
        train, val = self.cities["train"], self.cities["val"]
        tiles = CityTiles(train, patch_size, seed=seed, score_padding=self.as_original)
        tiles.keep_share(frac, seed)
        if self.as_original:
            return tiles, CityTiles(val, patch_size, score_padding=True)
        return tiles, WholeCities(val)


def read_splits(data_dir: Path, transform: InputTransform, *, as_original: bool) -> CitySplits:
    """Read the cities of all splits into memory.

    Args:
        data_dir: Folder of OSCD.
        transform: Conversion of digital numbers to pictures.
        as_original: Whether to read the images that are not co-registered, and join train and val.
    """
    cities = {
        split: read_cities(data_dir, names, transform, aligned=not as_original)
        for split, names in city_splits(data_dir).items()
    }
    if as_original:
        cities |= {"train": cities["train"] + cities["val"], "val": cities["test"]}
    return CitySplits(cities, as_original)


def cut_tile(city: City, row: int, column: int, side: int) -> np.ndarray:
    """Stack both dates, the mask and whether a pixel is inside the city, outside of which all is 0.

    Args:
        city: Images of C bands.
        row: First row of the tile.
        column: First column of the tile.
        side: Side of the tile in pixels: uint8, shape (2 C + 2, side, side).
    """
    whole = (*city.image_1, *city.image_2, city.mask)
    planes = np.zeros((len(whole) + 1, side, side), np.uint8)
    height, width = city.mask[row : row + side, column : column + side].shape
    for plane, source in zip(planes, whole, strict=False):
        plane[:height, :width] = source[row : row + side, column : column + side]
    planes[-1, :height, :width] = 1
    return planes


def unchanged_per_changed(cities: Sequence[City]) -> float:
    """Return the number of unchanged pixels for each changed one.

    Raises:
        UserError: No pixel changed.
    """
    changed = sum(int(city.mask.sum()) for city in cities)
    if changed == 0:
        raise UserError(
            f"no pixel changed in {', '.join(city.name for city in cities)}: there is nothing to "
            "find, check the change maps"
        )
    return (sum(city.mask.size for city in cities) - changed) / changed
