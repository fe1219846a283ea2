"""The views of a training: stored uint8 patches in, normalised views out.

Random numbers are drawn for whole batches on the CPU (``utils.view_draws``). A GPU works on whole
batches, by the kernels of ``utils.fused_views`` where Triton is installed; a CPU makes one view
after the other, on 8-bit pictures (``utils.augment_cpu``). SeCo applies, at the full size of
a patch, colour jitter, grey, blur and flip, and then crops; MoCo crops first.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from utils.augment_config import AugmentConfig
from utils.augment_cpu import ViewMaker
from utils.color_jitter import color_jitter, grey_weights
from utils.input_spec import InputSpec
from utils.resample import blur, blur_uint8, resample, resize_map
from utils.view_draws import ViewDraws, draw_views

_MAX_ERROR = 0.25  # levels of 255, on average; fp16 makes less than 0.1


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
        return self.draw_each(keys, {stream: synthetic}, size)[0]

    def draw_each(
        self, keys: Tensor, streams: Mapping[int, bool], size: Sequence[int]
    ) -> list[ViewDraws]:
        """Draw the parameters of several views of each sample, see ``draw_views``.

        Args:
            keys: As of ``draw``.
            streams: For the number of each view, whether all operations are applied.
            size: Height and width of the patches.
        """
        return draw_views(keys, streams, (size[0], size[1]), self.config)

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
        if not patches.is_cuda or self.config.round_to_uint8:
            return self._batched(patches, draws)
        if self.fused is None:
            self.fused = self._checked_kernels(patches[:2])
        return self._fused(patches, draws) if self.fused else self._batched(patches, draws)

    def _checked_kernels(self, patches: Tensor) -> Any:
        """Try the kernels on a few samples, once: False if they fail or differ from plain torch."""
        try:
            from utils import fused_views

            self.fused = fused_views
            errors = []
            for synthetic in (False, True):  # each has kernels of its own
                draws = self.draw(torch.arange(len(patches)), 0, synthetic, patches.shape[2:])
                draws = draws.to(patches.device)
                error = self._fused(patches, draws) - self._batched(patches, draws)
                errors.append((error * self.std).abs().mean().item())
        except Exception as problem:  # Triton is missing, too old, or does not know the device
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
        else:
            wrong = [error for error in errors if not error < _MAX_ERROR]  # also NaN
            if not wrong:
                return fused_views
            reason = f"Triton's differ by {wrong[0]:.2f} levels"
        print(f"views are made by plain torch, which is slower: {reason}", file=sys.stderr)
        return False

    def _batched(self, patches: Tensor, draws: ViewDraws) -> Tensor:
        """Make all views at once, without reading the drawn numbers."""
        size, rounded = self.config.crop_size, self.config.round_to_uint8
        height, width = patches.shape[2:]
        top, left, box_height, box_width = draws.boxes.unbind(1)
        rows = resize_map(top, box_height, height, size)
        columns = resize_map(left, box_width, width, size)
        crop_last = draws.synthetic and not self.config.crop_first
        pictures = self._stretch(patches)
        if not crop_last:
            pictures = resample(pictures, rows, columns, rounded)
        if draws.synthetic:
            pictures = color_jitter(pictures, draws.color, rounded)
            pictures = blur_uint8(pictures, draws.taps) if rounded else blur(pictures, draws.taps)
        if crop_last:
            pictures = resample(pictures, rows, columns, rounded)
        if draws.synthetic:
            flip, flip_rows, transpose = draws.flips[:, :, None, None, None].unbind(1)
            pictures = torch.where(flip, pictures.flip(3), pictures)
            if self.config.rotate:
                pictures = torch.where(flip_rows, pictures.flip(2), pictures)
                pictures = torch.where(transpose, pictures.mT, pictures)
        return ((pictures - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _fused(self, patches: Tensor, draws: ViewDraws) -> Tensor:
        """Make all views at once by ``utils.fused_views``; pictures are (B, H, C, W)."""
        fused, size, (height, width) = self.fused, self.config.crop_size, patches.shape[2:]
        top, left, box_height, box_width = draws.boxes.unbind(1)
        rows = fused.resize_map(top, box_height, height, size)
        columns = fused.resize_map(left, box_width, width, size)
        color = flips = None
        if draws.synthetic:
            color, flips = draws.values[:, 4:13], draws.values[:, 13:16]
        if color is None or self.config.crop_first:
            pictures = fused.stretched(patches, self.table)
        else:
            pictures = fused.color_jitter(patches, self.table, self.weights, color, draws.hue)
            maps = fused.blur_map(draws.taps, height)
            rows = rows @ maps
            columns = columns @ (maps if width == height else fused.blur_map(draws.taps, width))
        small = fused.resample(pictures, rows, columns)
        if color is not None and self.config.crop_first:
            small = small.transpose(1, 2)  # a view of shape (B, C, h, w)
            pictures = fused.color_jitter(small, self.table, self.weights, color, draws.hue)
            maps = fused.blur_map(draws.taps, size)
            small = fused.resample(pictures, maps, maps)
        return fused.finish_views(
            small, flips, self.mean.flatten(), self.std.flatten().reciprocal()
        )

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
