"""The views of a training: stored uint8 patches in, normalised views out.

Random numbers are drawn for whole batches on the CPU (``utils.view_draws``). A GPU works on whole
batches, by the kernels of ``utils.fused_views`` where Triton is installed; a CPU makes one view
after the other, on 8-bit pictures (``utils.augment_cpu``). SeCo applies, at the full size of
a patch, colour jitter, grey, blur and flip, and then crops; MoCo crops first.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from utils.augment_config import AugmentConfig
from utils.augment_cpu import ViewMaker
from utils.color_jitter import color_jitter, grey_weights
from utils.input_spec import InputSpec
from utils.resample import resample, resize_map, taps_map
from utils.view_draws import ViewDraws, draw_views

_MAX_ERROR = 0.5  # levels of 255, on average; rounding to 8 bits alone makes up to 0.1


class ApplyN:
    """Apply a transform ``n`` times; it draws its own random numbers. The original's name.

    Args:
        transform: Random transform of a sample.
        n: Number of views.
    """

    def __init__(self, transform: Callable[[Any], Any], n: int) -> None:
        self.transform = transform
        self.n = n

    def __call__(self, image: Any) -> list[Any]:
        return [self.transform(image) for _ in range(self.n)]


class Augment(nn.Module):
    """Draw views of patches.

    Args:
        spec: Bands of the patches, their stretch and their normalisation.
        config: Distribution of the views.

    Attributes:
        fused: ``utils.fused_views`` on a GPU where its kernels work, False where they do not, None
            before the first batch.
    """

    table: Tensor
    weights: Tensor
    row: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec, config: AugmentConfig) -> None:
        super().__init__()
        self.config = config
        self.fused: Any = None
        table = spec.stretch_table()  # (C, 256)
        self.is_picture = bool((table == torch.arange(256)).all())  # then there is no stretch
        buffers = {
            "table": table.float(),
            "weights": grey_weights(len(table)),
            "row": 256 * torch.arange(len(table), dtype=torch.int32)[:, None, None],
            "mean": 255 * torch.tensor(spec.mean)[:, None, None],
            "std": 255 * torch.tensor(spec.std)[:, None, None],
        }
        for name, values in buffers.items():  # a checkpoint carries the InputSpec instead
            self.register_buffer(name, values, persistent=False)
        self._make_view = ViewMaker(table, self.mean, self.std, config)

    def forward(self, patches: Tensor, keys: Tensor, stream: int, synthetic: bool) -> Tensor:
        """Make one view of each patch.

        Args:
            patches: Stored patches, uint8, shape (B, C, H, W).
            keys: Keys of the samples, int64, shape (B,), see ``utils.data``.
            stream: Number of the view within its sample, which separates its random numbers.
            synthetic: Whether the view is augmented; otherwise it is only cropped and normalised.
        """
        return self.make(patches, self.draw(keys, stream, synthetic, patches.shape[2:]))

    def draw(self, keys: Tensor, stream: int, synthetic: bool, size: Sequence[int]) -> ViewDraws:
        """Draw the parameters of a view of each sample.

        Args:
            keys: Streams of the samples (``utils.data.sample_keys``), int64, shape (B,), on the CPU
                or else the drawing costs a GPU some hundred small kernels.
            stream: Number of the view, so that the views of a sample differ.
            synthetic: Apply all operations; otherwise only crop, resize and normalise.
            size: Height and width of the patches.
        """
        return draw_views(keys, stream, synthetic, (size[0], size[1]), self.config)

    @torch.no_grad()
    def make(self, patches: Tensor, draws: ViewDraws) -> Tensor:
        """Make one view of each patch.

        Args:
            patches: Stored values, uint8, shape (B, C, H, W).
            draws: Result of ``draw``, on any device.

        Returns:
            Normalised views, float32, channels last, shape (B, C, crop_size, crop_size).
        """
        if patches.is_cpu:
            return self._one_by_one(patches, draws)
        if draws.values.device != patches.device:
            draws = draws.to(patches.device)
        if not patches.is_cuda:
            return self._batched(patches, draws)
        if self.fused is None:
            self.fused = self._checked_kernels(patches[:2], replace(draws, values=draws.values[:2]))
        if self.fused is False:
            return self._batched(patches, draws)
        return self._fused(patches, draws, self.fused)

    def _checked_kernels(self, patches: Tensor, draws: ViewDraws) -> Any:
        """Try the kernels on two samples, once: False if they fail or differ from plain torch."""
        try:
            from utils import fused_views

            views = self._fused(patches, draws, fused_views)
            error = ((views - self._batched(patches, draws)) * self.std).abs().mean().item()
        except Exception as problem:  # Triton is missing, too old, or does not know the device
            reason = f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
        else:
            if error < _MAX_ERROR:
                return fused_views
            reason = f"Triton's differ by {error:.2f} levels"
        print(f"views are made by plain torch, which is slower: {reason}", file=sys.stderr)
        return False

    def _batched(self, patches: Tensor, draws: ViewDraws) -> Tensor:
        """Make all views at once, without reading the drawn numbers."""
        config = self.config
        height, width = patches.shape[2:]
        pictures = self._stretch(patches)
        top, left, box_height, box_width = draws.boxes.unbind(1)
        rows = resize_map(top, box_height, height, config.crop_size)
        columns = resize_map(left, box_width, width, config.crop_size)
        if not draws.synthetic:
            return self._normalize(resample(pictures, rows, columns))
        if config.crop_first:
            pictures = self._round(resample(pictures, rows, columns))
            rows = columns = taps_map(draws.taps, config.crop_size)
        else:
            rows = rows @ taps_map(draws.taps, height)
            columns = columns @ taps_map(draws.taps, width)
        pictures = color_jitter(pictures, draws.color, config.round_to_uint8)
        flip, flip_rows, transpose = draws.flips[:, :, None, None].unbind(1)
        views = resample(pictures, rows, torch.where(flip, columns.flip(1), columns))
        if config.rotate:
            views = torch.where(flip_rows[:, None], views.flip(2), views)
            views = torch.where(transpose[:, None], views.mT, views)
        return self._normalize(views)

    def _fused(self, patches: Tensor, draws: ViewDraws, fused: Any) -> Tensor:
        """Make all views at once by ``utils.fused_views``; pictures are (B, H, C, W)."""
        config, rounded = self.config, self.config.round_to_uint8
        size, (height, width) = config.crop_size, patches.shape[2:]
        top, left, box_height, box_width = draws.boxes.unbind(1)
        rows = fused.resize_map(top, box_height, height, size)
        columns = fused.resize_map(left, box_width, width, size)
        color, flips, hue = None, None, draws.hue and len(self.table) == 3
        if draws.synthetic:
            color, flips = draws.values[:, 4:13], draws.values[:, 13:16]
        if config.crop_first or color is None:
            pictures = fused.pictures(patches, self.table, self.weights, None, None, False, rounded)
        else:
            sums = fused.grey_sums(patches, self.table, self.weights, color, hue, rounded)
            pictures = fused.pictures(patches, self.table, self.weights, color, sums, hue, rounded)
            blur = fused.blur_map(draws.taps, height)
            rows = rows @ blur
            columns = columns @ (blur if width == height else fused.blur_map(draws.taps, width))
        small = fused.resample(pictures, rows, columns)
        if config.crop_first and color is not None:
            sums = fused.grey_sums(small, None, self.weights, color, hue, rounded)
            pictures = fused.pictures(small, None, self.weights, color, sums, hue, rounded)
            blur = fused.blur_map(draws.taps, size)
            small = fused.resample(pictures, blur, blur)
        return fused.finish_views(small, flips, self.mean.flatten(), self.std.flatten(), rounded)

    def _one_by_one(self, patches: Tensor, draws: ViewDraws) -> Tensor:
        """Make the views one after the other, in as many threads as torch has."""
        shape = (len(patches), patches.shape[1], self.config.crop_size, self.config.crop_size)
        views = torch.empty(shape, memory_format=torch.channels_last)
        jobs = list(zip(patches, draws.views(), views, strict=True))
        num_threads = torch.get_num_threads()
        if num_threads == 1:
            for job in jobs:
                self._make_view(*job)
        else:
            with ThreadPoolExecutor(
                num_threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                list(pool.map(self._make_view, *zip(*jobs, strict=True)))
        return views

    def _stretch(self, patches: Tensor) -> Tensor:
        """Map stored values to picture values, 0..255, float32."""
        if self.is_picture:
            return patches.float()
        index = patches.int() + self.row
        return self.table.flatten().index_select(0, index.flatten()).view(patches.shape)

    def _round(self, pictures: Tensor) -> Tensor:
        return pictures.round() if self.config.round_to_uint8 else pictures

    def _normalize(self, views: Tensor) -> Tensor:
        views = (self._round(views) - self.mean) / self.std
        return views.contiguous(memory_format=torch.channels_last)
