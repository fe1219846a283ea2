"""The input pipeline of the original SeCo, one sample at a time: what ours is compared with.

Written from the description of https://github.com/ServiceNow/seasonal-contrast: nine GeoTIFFs
opened with rasterio per sample, Pillow pictures, torchvision's first transforms, colour and blur at
the full size before the crop.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as T

from datasets.bands import RGB_BANDS, RGB_QUANTILES
from utils.input_spec import IMAGENET_MEAN, IMAGENET_STD

Views = tuple[Tensor, list[Tensor]]  # of a query and its keys


class ReferenceDataset(Dataset[Views]):
    """Query and three keys of a place, each normalised, float32, shape (3, crop, crop).

    Args:
        root: Folder of SeCo places.
        crop_size: Side of a view in pixels.
    """

    def __init__(self, root: Path, crop_size: int = 224) -> None:
        self.places = sorted(path for path in root.iterdir() if path.is_dir())
        crop = T.RandomResizedCrop(crop_size, scale=(0.2, 1.0))
        normalize = T.Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self.preprocess = T.Compose([crop, T.ToTensor(), normalize])
        self.augment = T.Compose(
            [
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                T.RandomGrayscale(p=0.2),
                T.RandomApply([_blur], p=0.5),
                T.RandomHorizontalFlip(),
                self.preprocess,
            ]
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Views:
        return self.views(self.read(index))

    def read(self, index: int) -> list[Image.Image]:
        """Read three dates of a place, drawn with replacement."""
        scenes = [path for path in self.places[index].iterdir() if path.is_dir()]
        return [read_picture(scene) for scene in random.choices(scenes, k=3)]

    def views(self, pictures: list[Image.Image]) -> Views:
        """Make the query and the keys of all, temporal and synthetic transformations."""
        return four_views(pictures, self.preprocess, self.augment)


def four_views(dates: Any, plain: Callable[[Any], Any], augmented: Callable[[Any], Any]) -> Views:
    """Make SeCo's query and keys of three dates of a place, or of a batch of places.

    Args:
        dates: Three dates of a place, or of a batch of places.
        plain: Makes a view that is only cropped.
        augmented: Makes a view with synthetic changes.
    """
    t0, t1, t2 = dates
    return plain(t0), [augmented(t1), plain(t2), augmented(t0)]


def read_picture(scene: Path) -> Image.Image:
    """Open the three band files of a scene and stretch them to a picture."""
    channels = []
    for band in RGB_BANDS:
        with rasterio.open(scene / f"{band}.tif") as file:
            channel = file.read(1)
        low, high = RGB_QUANTILES[band]
        stretched = (channel - low) / (high - low) * 255
        channels.append(np.clip(stretched, 0, 255).astype(np.uint8))
    return Image.fromarray(np.dstack(channels))


def _blur(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))
