"""Input pipelines of other packages, each used as its documentation shows.

All make the four views of SeCo with its operations, probabilities and sizes; lightly crops first.
The packages are imported by the functions that use them; ``requirements-bench.txt`` installs them.
"""

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.input_cases import CROP_SIZE, FOLDER, batch_views, pipeline, sample_batches
from benchmarks.reference_pipeline import Views, four_views, read_picture
from utils.input_spec import IMAGENET_MEAN, IMAGENET_STD, SECO_SPEC

PICTURES = "pictures"  # folder of RGB JPEGs, next to those of ``make_archive``
QUALITY = 75  # of JPEG, as of the GeoTIFFs: GDAL's and Pillow's default
COLOR_JITTER = (0.4, 0.4, 0.4, 0.1)
SCALE, SIGMA = (0.2, 1.0), (0.1, 2.0)
KERNEL_SIZE = 13  # three times the largest sigma on both sides
Items = dict[str, Iterator[object]]


def write_pictures(archive: Path) -> None:
    """Convert every scene to an RGB JPEG, as users of these packages would."""
    for place in sorted((archive / FOLDER).iterdir()):
        target = archive / PICTURES / place.name
        target.mkdir(parents=True)
        for scene in filter(Path.is_dir, place.iterdir()):
            read_picture(scene).save(target / f"{scene.name}.jpg", quality=QUALITY)


def jpeg_pipeline(
    name: str,
    archive: Path,
    batch_size: int,
    load: Callable[[Path], Any],
    views: Callable[[Any], Views],
) -> Items:
    """Read three dates of each place, drawn with replacement, and make their views one by one.

    Args:
        name: Name of the pipeline.
        archive: Folder of ``write_pictures``.
        batch_size: Samples of a batch.
        load: Reads a picture.
        views: Makes query and keys of three pictures.
    """
    places = sorted((archive / PICTURES).iterdir())

    def read(place: int) -> list[Any]:
        return [load(path) for path in random.choices(sorted(places[place].iterdir()), k=3)]

    return pipeline(name, sample_batches(read, len(places), batch_size), batch_views(views))


def load_picture(path: Path) -> Image.Image:
    """Read an RGB picture as the folders of torchvision and lightly do."""
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def torchvision_v2(archive: Path, batch_size: int) -> Items:
    """https://docs.pytorch.org/vision/stable/transforms.html: uint8 tensors, float at the end.

    Args:
        archive: Folder of the places.
        batch_size: Samples per batch.
    """
    from torchvision.transforms import v2

    to_image = v2.ToImage()

    plain = v2.Compose(
        [
            v2.RandomResizedCrop(CROP_SIZE, SCALE, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    augmented = v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(*COLOR_JITTER)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(KERNEL_SIZE, SIGMA)], p=0.5),
            v2.RandomHorizontalFlip(0.5),
            plain,
        ]
    )
    views = partial(four_views, plain=plain, augmented=augmented)
    return jpeg_pipeline(
        "torchvision", archive, batch_size, lambda path: to_image(load_picture(path)), views
    )


def lightly(archive: Path, batch_size: int) -> Items:
    """https://docs.lightly.ai/self-supervised-learning/lightly.transforms.html: Pillow pictures.

    Args:
        archive: Folder of the places.
        batch_size: Samples per batch.
    """
    from lightly.transforms.moco_transform import MoCoV2Transform

    off = {"cj_prob": 0.0, "random_gray_scale": 0.0, "gaussian_blur": 0.0, "hf_prob": 0.0}
    plain, augmented = (
        MoCoV2Transform(CROP_SIZE, min_scale=SCALE[0], **flags).transforms[0] for flags in (off, {})
    )
    views = partial(four_views, plain=plain, augmented=augmented)
    return jpeg_pipeline("lightly", archive, batch_size, load_picture, views)


def albumentations(archive: Path, batch_size: int) -> Items:
    """https://albumentations.ai/docs/examples/pytorch-classification: OpenCV's RGB arrays.

    Args:
        archive: Folder of the places.
        batch_size: Samples per batch.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it looks for updates when imported
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    def load(path: Path) -> Any:
        picture: Any = cv2.imread(str(path))
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    plain = [
        A.RandomResizedCrop((CROP_SIZE, CROP_SIZE), scale=SCALE),
        A.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ToTensorV2(),
    ]
    *strengths, hue = COLOR_JITTER
    augmented = [
        A.ColorJitter(*((1 - s, 1 + s) for s in strengths), hue=(-hue, hue), p=0.8),
        A.ToGray(p=0.2),
        A.GaussianBlur(blur_limit=0, sigma_limit=SIGMA, p=0.5),
        A.HorizontalFlip(p=0.5),
        *plain,
    ]

    def apply(transforms: list[Any]) -> Callable[[Any], Any]:
        compose = A.Compose(transforms)
        return lambda picture: compose(image=picture)["image"]

    views = partial(four_views, plain=apply(plain), augmented=apply(augmented))
    return jpeg_pipeline("albumentations", archive, batch_size, load, views)


def torchgeo(archive: Path, batch_size: int) -> Items:
    """Torchgeo's data set of SeCo, and kornia on its batches, as its trainers do.

    https://torchgeo.readthedocs.io/en/stable/api/datasets.html#seco
    https://kornia.readthedocs.io/en/latest/augmentation.container.html

    Args:
        archive: Folder of the places.
        batch_size: Samples per batch.
    """
    import kornia.augmentation as K
    from torchgeo.datasets import SeasonalContrastS2

    (archive / "seasonal_contrast_100k").symlink_to(archive / FOLDER)
    dataset = SeasonalContrastS2(str(archive), "100k", seasons=3)
    num_places = sum(path.is_dir() for path in (archive / FOLDER).iterdir())
    size = (CROP_SIZE, CROP_SIZE)
    resized = [
        K.RandomResizedCrop(size, scale=SCALE),
        K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
    ]
    plain = K.AugmentationSequential(*resized, data_keys=["input"])
    augmented = K.AugmentationSequential(
        K.ColorJitter(*COLOR_JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((KERNEL_SIZE, KERNEL_SIZE), SIGMA, p=0.5),
        K.RandomHorizontalFlip(p=0.5),
        *resized,
        data_keys=["input"],
    )
    low, high = (torch.tensor(values)[:, None, None] for values in (SECO_SPEC.low, SECO_SPEC.high))

    def stretch(samples: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        dates = torch.stack([sample["image"] for sample in samples]).unflatten(1, (3, 3))
        return ((dates - low) / (high - low)).clamp(0, 1)  # (B, dates, C, H, W)

    def views(batch: torch.Tensor) -> Views:
        with torch.no_grad():
            return four_views(batch.unbind(1), plain, augmented)

    batches = sample_batches(dataset.__getitem__, num_places, batch_size)
    items = pipeline("torchgeo", map(stretch, batches), views)
    return items | {"read/torchgeo": batches}


PIPELINES: dict[str, Callable[[Path, int], Items]] = {
    "torchgeo": torchgeo,
    "torchvision": torchvision_v2,
    "lightly": lightly,
    "albumentations": albumentations,
}
