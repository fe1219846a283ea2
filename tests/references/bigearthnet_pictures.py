"""Pictures of BigEarthNet: by our data set, and by a slow re-statement of the original."""

from pathlib import Path

import numpy as np
import rasterio
import torch
from PIL import Image

from datasets.bands import RGB_BANDS, two_digit_name
from datasets.bigearthnet.facts import BIGEARTHNET_SPEC, MEAN_AND_STD
from datasets.bigearthnet.index import BigEarthNet
from datasets.bigearthnet.pictures import BigEarthNetPictures
from utils.input_spec import InputSpec, InputTransform, input_transform


def transform(bands: tuple[str, ...] = RGB_BANDS, norm: str = "paper") -> InputTransform:
    return input_transform(InputSpec.of_pictures(bands), BIGEARTHNET_SPEC, norm)


def original_input(folder: Path, bands: tuple[str, ...] = ("B4", "B3", "B2")) -> torch.Tensor:
    """Slow re-statement of the original's way from files to a tensor in 0..1."""
    channels = []
    for band in bands:
        mean, std = MEAN_AND_STD[band]
        with rasterio.open(folder / f"{folder.name}_{two_digit_name(band)}.tif") as file:
            low, high = mean - 2 * std, mean + 2 * std
            scaled = (file.read(1) - low) / (high - low) * 255.0
        channels.append(np.clip(scaled, 0, 255).astype(np.uint8))
    image = Image.fromarray(np.dstack(channels)).resize((128, 128), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).astype(np.float32)) / 255


def pictures(index: BigEarthNet, split: str = "train", **kwargs: int) -> BigEarthNetPictures:
    return BigEarthNetPictures(index, index.splits[split], transform(), **kwargs)
