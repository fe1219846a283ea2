"""Digests of the published encoders, and those that exports carry; starts without torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# Start of the digest of published files, by name. Sources: https://zenodo.org/records/4728033, and
# the names of torchgeo's converted encoders (torchgeo/models/resnet.py), which end with theirs.
PUBLISHED = {
    "seco_resnet18_100k.ckpt": ("md5", "dcf336be31f6c6b0e77dcb6cc958fca8"),
    "seco_resnet18_1m.ckpt": ("md5", "53d5c41d0f479bdfd31d6746ad4126db"),
    "seco_resnet50_100k.ckpt": ("md5", "9672c303f6334ef816494c13b9d05753"),
    "seco_resnet50_1m.ckpt": ("md5", "7b09c54aed33c0c988b425c54f4ef948"),
    "resnet18_sentinel2_rgb_seco-cefca942.pth": ("sha256", "cefca942"),
    "resnet50_sentinel2_rgb_seco-018bf397.pth": ("sha256", "018bf397"),
}
DIGEST = "sha256"  # name of the entry in the metadata of safetensors and ONNX


def file_digest(path: Path, kind: str) -> str:
    """Return the hexadecimal digest of a file.

    Args:
        path: File to read.
        kind: Name of the digest in ``hashlib``.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def check_published(path: Path) -> None:
    """Verify a file that has the name of a published one.

    Raises:
        UserError: Its content is another one.
    """
    kind, expected = PUBLISHED.get(path.name, ("md5", ""))
    if expected and not (found := file_digest(path, kind)).startswith(expected):
        raise UserError(
            f"{path} has the {kind} {found}, but the published file of this name has {expected}: "
            "download it again, or rename it if it is another encoder"
        )


def tensor_digest(tensors: Mapping[str, "Tensor"], contract: Mapping[str, Any]) -> str:
    """Return the sha256 of an exported encoder, with the prefix ``sha256:``.

    Args:
        tensors: Tensors by name.
        contract: ``architecture`` and ``input_spec``, plain values.
    """
    import torch

    digest = hashlib.sha256(json.dumps(contract, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
