"""Read the encoder and its input contract from any supported file.

Supported are checkpoints of main_pretrain.py, the published ones of SeCo and CACo (Lightning 1.1),
bare state dicts with the names of ``nn.Sequential`` (CACo), torchvision or timm (torchgeo),
safetensors, and folders of ``models.export --format timm``. A state dict may be nested in others,
its names may have a prefix, and its numbers may have half or double precision.
"""

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.resnets import RESNETS, encoder_tensors
from models.state_dicts import PREFIX, find_encoder
from utils.errors import UserError, listed, quoted
from utils.input_spec import PICTURE_BANDS, SECO_SPEC, InputSpec, letters
from utils.torch_files import read_torch_file

# Position of a child in nn.Sequential(*resnet.children()), and its name in torchvision.
SEQUENTIAL = dict(
    zip("014567", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=True)
)
_WRAPPER = "module."  # of torch.nn.parallel
_FLOATS = (torch.float16, torch.bfloat16, torch.float64)  # converted to float32
# torchgeo's converted SeCo encoders, by the start of their sha256, which ends their file names.
_TORCHGEO_SECO = ("cefca942", "018bf397")
_MAX_BANDS = 1000
# Absent from files before torch 0.4.1, and a float if a script converted every tensor; only
# training reads it.
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class EncoderFile:
    """Encoder of a file.

    Attributes:
        path: The file, for messages.
        architecture: One of ``RESNETS``.
        tensors: All tensors except those of the classifier, with torchvision's names.
        spec: Input contract that is stored in the file or known for it, else None.
    """

    path: Path
    architecture: str
    tensors: dict[str, Tensor]
    spec: InputSpec | None

    @property
    def in_channels(self) -> int:
        """Number of input bands of the first filter."""
        return self.tensors["conv1.weight"].shape[1]

    def input_spec(self, bands: Sequence[str] | None = None) -> InputSpec:
        """Return the contract of the encoder.

        Without a contract in the file, the input is 8-bit pictures.

        Args:
            bands: Names of the channels for a file that does not name them; red, green and blue if
                None.

        Raises:
            UserError: The bands are not those of the file.
        """
        if self.spec is not None:
            if bands is not None and letters(bands) != letters(self.spec.bands):
                raise UserError(
                    f"{self.path} was trained on {' '.join(self.spec.bands)}, not on "
                    f"{' '.join(bands)}: leave --bands out"
                )
            return self.spec
        spec = InputSpec.of_pictures(bands or PICTURE_BANDS)
        if len(spec.bands) != self.in_channels:
            raise UserError(
                f"{self.path} takes {self.in_channels} bands and does not name them: give "
                f"{self.in_channels} names with --bands, not {' '.join(spec.bands)}"
            )
        return spec


@dataclass(frozen=True)
class _Content:
    """Unchecked content of a file."""

    state: Mapping[Any, Any]
    architecture: object = None
    contract: object = None  # as written by ``InputSpec.to_dict``
    spec: InputSpec | None = None  # known without the file


def read_encoder_file(path: Path, architecture: str | None = None) -> EncoderFile:
    """Read an encoder.

    Args:
        path: File, or folder that ``models.export --format timm`` wrote.
        architecture: Name that the user requires; None accepts any.

    Raises:
        UserError: A tensor is missing, unknown, of another shape or type, or not finite; or the
            encoder is another one than required.
    """
    content = _read(path)
    tensors = _torchvision_names(content.state, path)
    stem = tensors.get("conv1.weight")
    if stem is None:
        raise UserError(
            f"{path} holds no encoder: conv1.weight of a ResNet is missing, there is "
            f"{listed(sorted(tensors)) or 'no tensor'}: give a checkpoint of a ResNet"
        )
    if stem.ndim != 4 or not 3 <= stem.shape[1] <= _MAX_BANDS:
        raise UserError(
            f"{path} holds no encoder: conv1.weight is not a filter of 3 or more bands, its "
            f"shape is {quoted(str(tuple(stem.shape)))}"
        )
    name = _named(content.architecture, path) or _nearest(tensors, stem.shape[1])
    if architecture not in (None, name):
        raise UserError(
            f"{path} holds a {name}, but --base_encoder asks for {architecture}: leave it out"
        )
    if not any(k.endswith(_COUNTER) and v.dtype == torch.int64 for k, v in tensors.items()):
        counters = [key for key in encoder_tensors(name, 3) if key.endswith(_COUNTER)]
        tensors |= {key: torch.tensor(0) for key in counters}
    _check_tensors(tensors, name, path)
    tensors = {key: t.float() if t.dtype in _FLOATS else t for key, t in tensors.items()}
    _check_finite(tensors, path)
    spec = _read_contract(content.contract, path) or content.spec
    if spec is not None and len(spec.bands) != stem.shape[1]:
        raise UserError(
            f"{path} contradicts itself: its first filter takes {stem.shape[1]} bands, its "
            f"contract names {len(spec.bands)}"
        )
    return EncoderFile(path, name, tensors, spec)


def _read(path: Path) -> _Content:
    """Open a file according to its content, not its name; in a folder, the file that timm opens."""
    if path.is_dir():
        path /= "model.safetensors"
        if not path.is_file():
            raise UserError(f"{path.parent} is a folder without {path.name}: give a checkpoint")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    with path.open("rb") as file:
        start = file.read(9)
    return _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)


def _read_torch(path: Path) -> _Content:
    """Read a checkpoint of Lightning, or a bare state dict."""
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    state, prefix = find_encoder(content, path)
    if prefix == PREFIX or (prefix == _WRAPPER + PREFIX and "0.weight" in state):
        return _of_pretraining(content, state)
    metadata = getattr(state, "_metadata", None)
    known = metadata.get("contract") if isinstance(metadata, dict) else None
    if isinstance(known, dict):
        return _Content(state, known.get("architecture"), known.get("input_spec"))
    if ("0.weight" in state and prefix in ("", _WRAPPER)) or _sha256(path).startswith(
        _TORCHGEO_SECO
    ):
        return _Content(state, spec=SECO_SPEC)
    return _Content(state)


def _of_pretraining(content: dict[Any, Any], state: dict[Any, Any]) -> _Content:
    """Add what is known of a query encoder: before this code, all had the inputs of SeCo."""
    hparams = content.get("hyper_parameters")
    hparams = hparams if isinstance(hparams, dict) else {}
    spec = InputSpec.of_pictures() if "input_spec" in hparams else SECO_SPEC
    return _Content(state, hparams.get("base_encoder"), hparams.get("input_spec"), spec)


def _read_safetensors(path: Path) -> _Content:
    """Read the tensors and the header, whose values are text."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        contract = json.loads(header.get("input_spec", "null"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file: {quoted(str(error), 200)}"
        ) from error
    return _Content(find_encoder(state, path)[0], header.get("architecture"), contract)


def _torchvision_names(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Rename positions in ``nn.Sequential`` to torchvision's names, and drop a classifier."""
    if "0.weight" not in state:
        state = {
            key: value
            for key, value in state.items()
            if not (isinstance(key, str) and key.startswith("fc."))
        }
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path} holds no encoder: {reprlib.repr(key)} is not a named tensor")
        child, dot, rest = key.partition(".")
        tensors[SEQUENTIAL.get(child, child) + dot + rest] = value
    if len(tensors) < len(state):
        raise UserError(f"{path} names a tensor twice, as torchvision does and by position")
    return tensors


def _named(architecture: object, path: Path) -> str | None:
    """Check the architecture that a file names; None if it names none."""
    if architecture is None or (isinstance(architecture, str) and architecture in RESNETS):
        return architecture
    raise UserError(
        f"{path} holds no encoder known here: its encoder is {reprlib.repr(architecture)}, not "
        f"one of {' '.join(RESNETS)}"
    )


def _nearest(tensors: dict[str, Tensor], in_channels: int) -> str:
    """Return the ResNet whose tensors differ least in name and shape."""
    found = {(key, tensor.shape) for key, tensor in tensors.items()}

    def difference(name: str) -> int:
        table = encoder_tensors(name, in_channels)
        return len(found ^ {(key, shape) for key, (shape, _) in table.items()})

    return min(RESNETS, key=difference)


def _check_tensors(tensors: dict[str, Tensor], name: str, path: Path) -> None:
    """Compare names, shapes and types with those of the architecture."""
    table = encoder_tensors(name, tensors["conv1.weight"].shape[1])
    shared = tensors.keys() & table.keys()
    faults = {
        "missing": sorted(table.keys() - tensors.keys()),
        "too many": sorted(tensors.keys() - table.keys()),
        "of another shape or type": sorted(
            f"{key}: {str(tensors[key].dtype).removeprefix('torch.')} {tuple(tensors[key].shape)}"
            for key in shared
            if (tensors[key].shape, _converted(tensors[key].dtype)) != table[key]
        ),
    }
    found = [f"{len(keys)} {fault} ({listed(keys)})" for fault, keys in faults.items() if keys]
    if found:
        raise UserError(f"{path} does not fit a {name}: of its tensors {', '.join(found)}")


def _converted(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _FLOATS else dtype


def _check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse NaN, infinity and numbers beyond the range of float32."""
    broken = sorted(key for key, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise UserError(
            f"{path} holds numbers that are not finite, in {len(broken)} tensors such as "
            f"{broken[0]}"
        )


def _read_contract(contract: object, path: Path) -> InputSpec | None:
    """Read the contract of a file; a damaged one is a ``UserError``."""
    if contract is None:
        return None
    try:
        return InputSpec.from_dict(contract)  # type: ignore[arg-type]  # checked by the errors
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} has a damaged input_spec: {quoted(str(error), 200)}") from error


def _sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
