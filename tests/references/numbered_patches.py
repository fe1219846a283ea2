"""Patches that hold their own number, without files, and the samples of a stream of them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.seco.bad_patches import BadPatchError
from datasets.seco.samples import PatchDataset
from tests.references.stream_process import (
    MODES,
    SEED,
    Batches,
)
from utils.input_spec import InputSpec

CHUNK_BYTES = 1000  # of LitData: about six places


class Numbered:
    """Patches that hold their own number, of places with three to five dates."""

    root = Path("numbers")
    input_spec = InputSpec(("B4", "B8"), (0.0, 1.0), (90.0, 99.0), (0.4, 0.5), (0.2, 0.3))
    patch_shape = (2, 3, 7)

    def __init__(self, num_places: int = 50, bad: tuple[int, ...] = ()) -> None:
        counts = 3 + np.arange(num_places) % 3
        self.starts = np.concatenate([[0], counts.cumsum()])
        self.bad = bad

    def name(self, patch: int) -> str:
        return f"patch/{patch}"

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        if patch in self.bad:
            raise BadPatchError(self.name(patch), "is torn")
        pixels = np.empty(self.patch_shape, np.uint8) if out is None else out
        pixels[:] = np.random.default_rng(patch).integers(0, 256, self.patch_shape, np.uint8)
        pixels[0, 0, :2] = divmod(patch, 256)
        return pixels


def indices(batches: Batches) -> list[int]:
    return [index for batch in batches for index in batch["index"].tolist()]


def assert_samples_of(source: Numbered, batches: Batches, mode: str, **options: Any) -> None:
    """Compare each sample with what the source itself gives for its (epoch, index)."""
    dataset = PatchDataset(source, seed=SEED, **MODES[mode], **options)
    for batch in batches:
        assert batch["patches"].dtype == torch.uint8
        keys = zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)
        expected = [dataset[key] for key in keys]
        assert batch["bad"] == [name for sample in expected for name in sample["bad"]]
        torch.testing.assert_close(
            batch["patches"], torch.stack([sample["patches"] for sample in expected])
        )
