"""SeCo as map-style data sets, with the names of the original: for notebooks and own loops.

>>> dataset = SeasonalContrastMultiAug("seco_100k")
>>> q, (k0, k1, k2) = dataset[0]
>>> dataset.plot(dataset[0])  # in a notebook, after %matplotlib inline

Patches, dates and views come from the objects that ``SecoDataModule`` trains with. Dates and views
are drawn from torch's global generator: ``torch.manual_seed`` or ``seed_everything`` repeats them,
and the worker processes of a ``DataLoader`` draw different ones. Two reads of one index differ.

Folders and zips of places are read; a packed store or a stream needs ``SecoDataModule``. A damaged
or empty patch is a ``UserError`` that names the file, raised when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.bands import ALL_BANDS, RGB_BANDS, check_stored
from datasets.figures import plot_images, to_image
from datasets.seco.bad_patches import OnBadPatch
from datasets.seco.data_modes import DATA_MODES
from datasets.seco.folder import read_band
from datasets.seco.patches import SecoPatches
from datasets.seco.samples import PatchDataset
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.input_spec import RGB_QUANTILES
from utils.transforms import Augment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ALL_BANDS",
    "QUANTILES",
    "RGB_BANDS",
    "SeasonalContrastBase",
    "SeasonalContrastBasic",
    "SeasonalContrastMultiAug",
    "SeasonalContrastTemporal",
    "normalize",
    "read_image",
]

# 2 % and 98 % quantiles of the published bands in stored uint8 steps, arranged as in the original.
QUANTILES = {
    "min_q": {band: low for band, (low, _) in RGB_QUANTILES.items()},
    "max_q": {band: high for band, (_, high) in RGB_QUANTILES.items()},
}
_NUM_EPOCHS = 2**31  # of which each read draws one: dates and views are a function of it


def normalize(img: np.ndarray, min_q: float, max_q: float) -> np.ndarray:
    """Stretch stored values between two quantiles to 0..255, and truncate them to uint8.

    Args:
        img: Stored values, of any shape.
        min_q: Stored value that becomes 0; lower ones do, too.
        max_q: Stored value that becomes 255; higher ones do, too.
    """
    stretched = (img - float(min_q)) / (max_q - min_q) * 255.0  # uint8 - int would wrap around
    return np.clip(stretched, 0, 255).astype(np.uint8)


def read_image(
    path: Path | str,
    bands: Sequence[str],
    quantiles: Mapping[str, Mapping[str, float]] | None = None,
) -> Image.Image:
    """Read one date of a place as an image.

    Args:
        path: Folder of the date.
        bands: One or three bands of one resolution, in channel order.
        quantiles: "min_q" and "max_q" per band, as ``QUANTILES``; None keeps the stored values.

    Raises:
        UserError: A file is missing, damaged or not uint8.
    """
    channels = []
    for band in bands:
        channel = read_band(Path(path) / f"{band}.tif")
        if quantiles is not None:
            channel = normalize(channel, quantiles["min_q"][band], quantiles["max_q"][band])
        channels.append(channel)
    return Image.fromarray(np.dstack(channels).squeeze())


class SeasonalContrastBase(Dataset[Any]):
    """Common parts of the three data sets: reading and drawing patches, and making images.

    Args:
        root: Folder or zip of places, ``<place>/<scene>/<band>.tif``.
        bands: Bands in channel order; None for B4, B3, B2 (red, green, blue).
        transform: Applied to each image or view; None leaves it as it is.
        on_bad_patch: "raise" an error for a damaged or empty patch, or "skip" to the next sample.

    Attributes:
        samples: The stored patches of each sample, as the training reads them.
        input_spec: Bands, stretch and normalisation.

    Raises:
        UserError: The folder holds no SeCo patches or not these bands, a place has too few dates,
            or a band other than B2, B3, B4 has no quantiles, which ``datasets/seco_utils.py``
            measures and writes into ``root``.
    """

    num_dates = 1
    every_date = False
    titles: Sequence[str] = ()  # of the views

    def __init__(
        self,
        root: Path | str,
        bands: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        on_bad_patch: OnBadPatch = "raise",
    ) -> None:
        source = SecoPatches(Path(root), RGB_BANDS if bands is None else bands)
        self.bands = source.bands
        self.input_spec = source.input_spec
        self.transform = transform
        check_stored(source.samples(), str(root))
        self.samples = PatchDataset(
            source, self.num_dates, every_date=self.every_date, on_bad_patch=on_bad_patch
        )
        self._table = self.input_spec.stretch_table().numpy()

    def __len__(self) -> int:
        return len(self.samples)

    def _draw(self, index: int) -> tuple[Tensor, Tensor]:
        """Return stored patches, uint8, (T, C, H, W), and the key of their views, int64, (1,)."""
        index = range(len(self))[index]  # raises the IndexError that ends a for loop
        epoch = int(torch.randint(_NUM_EPOCHS, ()))
        keys = sample_keys(self.samples.seed, torch.tensor([epoch]), torch.tensor([index]))
        return self.samples[epoch, index]["patches"], keys

    def _image(self, patch: Tensor) -> Any:
        """Stretch a stored patch, uint8, (C, H, W), to an image, and transform it."""
        planes = [table[plane] for table, plane in zip(self._table, patch.numpy(), strict=True)]
        return self._transformed(to_image(np.stack(planes)))

    def _transformed(self, view: Any) -> Any:
        return view if self.transform is None else self.transform(view)

    def plot(self, sample: Any) -> Figure:
        """Draw a sample of this data set, see ``plot_images``."""
        query, *rest = sample if isinstance(sample, tuple) else (sample,)
        keys = rest[0] if rest and isinstance(rest[0], list) else rest
        return plot_images([query, *keys], self.titles, self.input_spec)


class SeasonalContrastBasic(SeasonalContrastBase):
    """Every date of every place is a sample: one image, for contrast within an image (MoCo)."""

    every_date = True
    titles = ("image",)

    def __getitem__(self, index: int) -> Any:
        """Return the transformed image of a patch.

        Without a transform it is a uint8 picture in 0..255, stretched between the quantiles: a PIL
        image if there are one or three bands, else an array of shape (H, W, C).
        """
        (t0,), _ = self._draw(index)
        return self._image(t0)


class SeasonalContrastTemporal(SeasonalContrastBase):
    """A place is a sample: two of its dates, for contrast between seasons (MoCo-v2+TP).

    Unlike the original, the dates are never the same: see docs/differences.md, dates.
    """

    num_dates = 2
    titles = ("q: date t0", "k: date t1")

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return query and key, images of two dates as those of ``SeasonalContrastBasic``."""
        (t0, t1), _ = self._draw(index)
        q = self._image(t0)
        k = self._image(t1)
        return q, k


class SeasonalContrastMultiAug(SeasonalContrastBase):
    """A place is a sample: the four views of SeCo (figure 2 of arXiv 2103.16607) of three dates.

    Every view is cropped at random, resized to 224 x 224 pixels and normalised with the statistics
    of ImageNet. A synthetic one is first changed by colour jitter, grey, blur and flip. Unlike the
    original, the three dates differ (docs/differences.md, dates), and ``transform`` has an effect:
    it is applied to each finished view.

    Attributes:
        augment_config: Distribution of the views; a subclass may replace it.
    """

    num_dates = 3
    titles = DATA_MODES["seco"].view_labels
    augment_config = AugmentConfig()

    @cached_property
    def _augment(self) -> Augment:
        return Augment(self.input_spec, self.augment_config)

    def __getitem__(self, index: int) -> tuple[Any, list[Any]]:
        """Return the query and the keys of the three embedding spaces.

        Without a transform, views are float32 of shape (C, 224, 224).
        """
        (t0, t1, t2), keys = self._draw(index)

        def view(stream: int, patch: Tensor, *, synthetic: bool) -> Any:
            return self._transformed(self._augment(patch[None], keys, stream, synthetic)[0])

        q = view(0, t0, synthetic=False)
        k0 = view(1, t1, synthetic=True)  # another date, changed: Z0, invariant to everything
        k1 = view(2, t2, synthetic=False)  # another date: Z1, invariant to seasons
        k2 = view(3, t0, synthetic=True)  # the same date, changed: Z2, invariant to augmentation
        return q, [k0, k1, k2]
