"""The input pipeline of the original SeCo, one sample at a time: what ours is compared with.

Written from the description of https://github.com/ServiceNow/seasonal-contrast: nine GeoTIFFs
opened with rasterio per sample, Pillow pictures, torchvision's first transforms, colour and blur at
the full size before the crop, and worker processes of torch's ``DataLoader``.
"""

import random
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms as T

from datasets.bands import RGB_BANDS, RGB_QUANTILES
from utils.input_spec import IMAGENET_MEAN, IMAGENET_STD

_ENDLESS = 10**9  # samples of an epoch whose end no measurement reaches


class ReferenceDataset(Dataset[tuple[Tensor, list[Tensor]]]):
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
            ]
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, list[Tensor]]:
        return self.views(self.read(index))

    def read(self, index: int) -> list[Image.Image]:
        """Read three dates of a place, drawn with replacement."""
        scenes = [path for path in self.places[index].iterdir() if path.is_dir()]
        return [_read_picture(scene) for scene in random.choices(scenes, k=3)]

    def views(self, pictures: list[Image.Image]) -> tuple[Tensor, list[Tensor]]:
        """Make the query and the keys of all, temporal and synthetic transformations."""
        t0, t1, t2 = pictures
        keys = [self.augment(t1), t2, self.augment(t0)]
        return self.preprocess(t0), [self.preprocess(key) for key in keys]


def _read_picture(scene: Path) -> Image.Image:
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


def reference_loader(
    dataset: ReferenceDataset, batch_size: int, num_workers: int
) -> DataLoader[tuple[Tensor, list[Tensor]]]:
    """Load batches by worker processes, in an epoch without end: it starts them once.

    Args:
        dataset: Samples of the original's pipeline.
        batch_size: Samples per batch.
        num_workers: Number of worker processes.
    """
    sampler = RandomSampler(dataset, replacement=True, num_samples=_ENDLESS)
    return DataLoader(dataset, batch_size, sampler=sampler, num_workers=num_workers, drop_last=True)
