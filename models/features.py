"""Features of a frozen encoder, computed once and kept in a file."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models.backbones import Encoder
from utils.errors import UserError
from utils.files import written_whole
from utils.input_spec import InputTransform
from utils.precision import autocast_type
from utils.probe_data import ProbeData
from utils.progress import progress


def read_features(
    encoder: Encoder,
    data: ProbeData,
    split: str,
    rows: Tensor | None = None,
    *,
    batch_size: int,
    device: torch.device,
    precision: str,
    cache_dir: Path | None = None,
) -> tuple[Tensor, bool]:
    """Compute features of a split, or read those that an earlier run has computed.

    Args:
        encoder: Moved to the device; none of its tensors changes.
        data: Data set that was opened for it.
        split: Name of the split.
        rows: Rows of the split, int64, shape (N,); None for all of them.
        batch_size: Pictures per step.
        device: Where to compute.
        precision: A key of ``PRECISIONS``.
        cache_dir: Folder of computed features; None keeps none.

    Returns:
        See ``extract_features``, and whether they were cached.
    """
    rows = torch.arange(len(data.targets[split])) if rows is None else rows
    pictures, transform = data.splits[split].take(rows), data.transform

    def compute() -> Tensor:
        own = torch.Generator()  # the loader draws a number, but not from the global generator
        loader = DataLoader(pictures, batch_size, num_workers=data.num_workers, generator=own)
        batches = (batch[0] for batch in loader)
        return extract_features(
            encoder, transform, batches, len(pictures), device=device, precision=precision
        )

    if cache_dir is None:
        return compute(), False
    identity = data.splits[split].identify(rows)
    path = cache_dir / f"{feature_key(encoder, transform, identity, precision)}.npy"
    return cached(path, (len(pictures), encoder.num_features), compute)


def extract_features(
    encoder: Encoder,
    transform: InputTransform,
    batches: Iterable[Tensor],
    count: int,
    *,
    device: torch.device,
    precision: str,
) -> Tensor:
    """Run the encoder in eval mode, without gradients: float32 on the CPU, (N, num_features).

    Args:
        encoder: Moved to the device; none of its tensors changes.
        transform: Turns pictures into inputs of the encoder.
        batches: Pictures, uint8, shape (B, bands, H, W) each, N in total.
        count: N.
        device: Where to compute.
        precision: A key of ``PRECISIONS``.

    """
    encode = encoder_of_pictures(encoder, transform, device, precision)
    features = torch.empty(count, encoder.num_features)
    done = 0
    with progress(total=count, desc="features", unit=" images", leave=False) as bar:
        for batch in batches:
            features[done : done + len(batch)] = encode(batch)
            done += len(batch)
            bar.update(len(batch))
    assert done == count
    return features


def encoder_of_pictures(
    encoder: Encoder, transform: InputTransform, device: torch.device, precision: str
) -> Callable[[Tensor], Tensor]:
    """Return a function from pictures, uint8, (B, C, H, W), to features, float32, (B, D).

    Args:
        encoder: Is moved to the device, and into eval mode.
        transform: Turns pictures into inputs of the encoder.
        device: Where to compute; the features are on the CPU.
        precision: A key of ``PRECISIONS``.

    Raises:
        UserError: A feature is not finite; raised by the function.
    """
    dtype = autocast_type(precision)
    encoder = encoder.to(device).to(memory_format=torch.channels_last).eval()

    def encode(pictures: Tensor) -> Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype, enabled=dtype is not None),
        ):
            inputs = transform.normalize(pictures.to(device))
            features = encoder(inputs.contiguous(memory_format=torch.channels_last)).float().cpu()
        if not features.isfinite().all():
            raise UserError("features are not finite: use --precision 32-true or another encoder")
        return features

    return encode


def feature_key(
    encoder: Encoder, transform: InputTransform, data_fingerprint: str, precision: str
) -> str:
    """Return the sha256 of everything that features depend on: 64 hexadecimal digits.

    Args:
        encoder: Encoder, of which names, shapes, types and values of all tensors count.
        transform: Conversion of pictures to inputs of the encoder.
        data_fingerprint: Text that identifies the pictures and their order.
        precision: A key of ``PRECISIONS``.
    """
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(memoryview(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()))
    contract = [transform.fingerprint(), data_fingerprint, str(autocast_type(precision))]
    digest.update(json.dumps(contract).encode())
    return digest.hexdigest()


def cached(
    path: Path, shape: tuple[int, int], compute: Callable[[], Tensor]
) -> tuple[Tensor, bool]:
    """Read features, or compute and write them.

    Args:
        path: File of the features, .npy.
        shape: Shape (N, D) that they must have.
        compute: Returns the features, float32, shape (N, D).

    Returns:
        The features, float32 on the CPU, and whether the file existed.

    Raises:
        UserError: The file is not one that this function has written.
    """
    if not path.exists():
        features = compute()
        with written_whole(path) as partial, partial.open("wb") as file:
            np.save(file, features.numpy())
        return features, False
    try:
        # Mapped first: a file cannot make this process reserve more memory than the file has bytes.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if (array.dtype, array.shape) != (np.float32, shape) or not np.isfinite(array).all():
            raise ValueError("other features")
    except (AttributeError, ValueError, OSError, EOFError, MemoryError, SyntaxError) as error:
        raise UserError(
            f"{path} is damaged: delete it, and the features are computed again"
        ) from error
    return torch.from_numpy(np.array(array)), True
