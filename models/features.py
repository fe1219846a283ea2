"""Features of a frozen encoder, computed once and kept in a file."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.backbones import Encoder
from utils.errors import UserError
from utils.files import written_whole
from utils.input_spec import InputTransform
from utils.precision import autocast_type
from utils.progress import progress


def extract_features(
    encoder: Encoder,
    transform: InputTransform,
    batches: Iterable[Tensor],
    count: int,
    *,
    device: torch.device,
    precision: str,
) -> Tensor:
    """Run the encoder in eval mode, without gradients.

    Args:
        encoder: Moved to the device; no tensor of it changes.
        transform: Normalises pictures for the encoder.
        batches: Pictures, uint8, shape (B, C, H, W) each, ``count`` of them together.
        count: N.
        device: Where to compute.
        precision: A key of ``PRECISIONS``.

    Returns:
        float32 on the CPU, shape (N, encoder.num_features).
    """
    dtype = autocast_type(precision)
    encoder = encoder.to(device).to(memory_format=torch.channels_last).eval()
    features = torch.empty(count, encoder.num_features)
    done = 0
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype, enabled=dtype is not None),
        progress(total=count, desc="features", unit=" images", leave=False) as bar,
    ):
        for batch in batches:
            inputs = transform.normalize(batch.to(device))
            rows = features[done : done + len(batch)]
            rows.copy_(encoder(inputs.contiguous(memory_format=torch.channels_last)))
            done += len(batch)
            bar.update(len(batch))
    assert done == count
    if not features.isfinite().all():
        raise UserError(
            "features of the encoder are not finite: use --precision 32-true or another encoder"
        )
    return features


def feature_key(
    encoder: Encoder, transform: InputTransform, data_fingerprint: str, precision: str
) -> str:
    """Name all that features depend on: sha256 of tensors, transform, data and precision."""
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(memoryview(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()))
    contract = [transform.fingerprint(), data_fingerprint, str(autocast_type(precision))]
    digest.update(json.dumps(contract).encode())
    return digest.hexdigest()


def cached(
    cache_dir: Path | None, key: str, shape: tuple[int, int], compute: Callable[[], Tensor]
) -> tuple[Tensor, bool]:
    """Read float32 features from the file of a key, or compute them and write it.

    Args:
        cache_dir: Folder of computed features, or None to keep none.
        key: All that they depend on, see ``feature_key``.
        shape: Of the features, (N, D).
        compute: Called if there is no file.

    Returns:
        The features, and whether they were there already.
    """
    if cache_dir is None:
        return compute(), False
    path = cache_dir / f"{key}.npy"
    if path.exists():
        return _read_features(path, shape), True
    features = compute()
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, features.numpy())
    return features, False


def _read_features(path: Path, shape: tuple[int, int]) -> Tensor:
    """Read an array that nothing but ``cached`` should have written; else it is a ``UserError``."""
    try:
        # Mapped first: a file cannot make this process reserve more memory than the file has bytes.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (np.float32, shape):
            raise ValueError("other features")
        features = torch.from_numpy(np.array(array))
    except (ValueError, OSError, EOFError, OverflowError, MemoryError, SyntaxError) as error:
        raise UserError(
            f"{path} does not hold the features it is named after: delete it"
        ) from error
    if not features.isfinite().all():
        raise UserError(f"{path} holds features that are not finite: delete it")
    return features
