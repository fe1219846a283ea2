"""OSCD (Daudt et al. 2018): what was built in 24 cities between two dates of Sentinel-2, level 1C.

dataset = ChangeDetectionDataset("oscd", "train")
img_1, img_2, cm = dataset[0]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch.utils.data import Dataset

from datasets import bands as sentinel2
from datasets.bands import short_name, two_digit_name
from datasets.figures import plot_images, to_image
from datasets.oscd.facts import BAND_QUANTILES, OSCD_DATA
from datasets.oscd.files import listed_cities, read_cities
from datasets.oscd.tiles import cut_tile
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ALL_BANDS", "QUANTILES", "RGB_BANDS", "ChangeDetectionDataset"]

# With the names and spellings of the original, and B10, which it lacks.
ALL_BANDS = tuple(two_digit_name(band) for band in BAND_QUANTILES)
RGB_BANDS = tuple(two_digit_name(band) for band in sentinel2.RGB_BANDS)
QUANTILES = {
    "min_q": {two_digit_name(band): low for band, (low, _) in BAND_QUANTILES.items()},
    "max_q": {two_digit_name(band): high for band, (_, high) in BAND_QUANTILES.items()},
}


class ChangeDetectionDataset(Dataset[Any]):
    """Square tiles of both dates of cities, and their change maps, as a map-style data set.

    The constructor is that of the original, whose ``root`` holds the cities with ``train.txt`` and
    ``test.txt``
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/oscd_dataset.py).
    Such a folder gives the same tiles in the same order here, with ``aligned=False`` from the same
    images. Beyond the original, ``root`` may hold the archives as they unpack, without lists.

    Args:
        root: Folder of the data set.
        split: "train", "test" or "all", as the data set's lists have it, or names of cities.
        bands: Bands in channel order, such as "B04" or "B4"; None for red, green and blue.
        transform: Function of two images and the change map that returns three.
        patch_size: Side of a tile in pixels.
        aligned: Whether to read the co-registered images, unlike the original (docs/differences.md,
            oscd-images).

    Attributes:
        bands: Bands of the images, spelled as "B4".
        samples: Name of the city and limits (left, upper, right, lower) of every tile.

    Raises:
        UserError: A split or band is unknown, or a file is missing, damaged or does not fit.
    """

    all_bands = ALL_BANDS
    all_splits = ("train", "test", "all")

    def __init__(
        self,
        root: str | Path,
        split: str | Sequence[str] = "all",
        bands: Sequence[str] | None = None,
        transform: Callable[..., Any] | None = None,
        patch_size: int = 96,
        *,
        aligned: bool = True,
    ) -> None:
        if patch_size < 1:
            raise UserError(f"patch_size is {patch_size}: use 1 or more pixels")
        self.root = Path(root)
        self.split = split
        self.bands = tuple(short_name(band) for band in bands or RGB_BANDS)
        self.transform = transform
        self.patch_size = patch_size
        spec = InputSpec.of_pictures(self.bands)
        self._stretch = input_transform(spec, OSCD_DATA, "paper")
        lists = listed_cities(self.root)
        names = lists.get(split) if isinstance(split, str) else list(split)
        if names is None or not set(names) <= set(lists["all"]):
            raise UserError(
                f"unknown split {split!r}: name {', '.join(self.all_splits)} or cities of the "
                f"lists of {self.root}, which are {', '.join(lists['all'])}"
            )
        cities = read_cities(self.root, names, self._stretch, aligned=aligned)
        self._cities = {city.name: city for city in cities}
        self.samples = [
            (city.name, (left, upper, left + patch_size, upper + patch_size))
            for city in cities
            for left in range(0, city.mask.shape[1], patch_size)
            for upper in range(0, city.mask.shape[0], patch_size)
        ]

    def __getitem__(self, index: int) -> Any:
        """Cut a tile; beyond the border of the city it is 0.

        Returns:
            Both images and the change map, or what ``transform`` makes of them. Images are uint8
            pictures, stretched between the quantiles: PIL images of one or three bands, else arrays
            of shape (H, W, C). The change map is a PIL image of mode L, 255 where something
            changed.
        """
        name, (left, upper, _, _) = self.samples[index]
        planes = cut_tile(self._cities[name], upper, left, self.patch_size)
        count = len(self.bands)
        img_1, img_2 = to_image(planes[:count]), to_image(planes[count : 2 * count])
        cm = Image.fromarray(planes[2 * count] * 255)
        return (img_1, img_2, cm) if self.transform is None else self.transform(img_1, img_2, cm)

    def __len__(self) -> int:
        return len(self.samples)

    def plot(self, sample: Sequence[Any]) -> Figure:
        """Draw both dates of an item in true colours, and what changed.

        Args:
            sample: Images and change map, as items are, or tensors of shape (C, H, W) and (1, H, W)
                in 0..1.
        """
        return plot_images(sample, ["date 1", "date 2", "change"], self._stretch.spec)
