"""Read the encoder and its input contract from any supported file.

Supported are checkpoints of main_pretrain.py, the published ones of SeCo and CACo (Lightning 1.1),
bare state dicts with the names of ``nn.Sequential`` (CACo), torchvision or timm (torchgeo),
safetensors, and folders of ``models.export --format timm``. A state dict may be nested in others,
its names may have a prefix, and its numbers may have half or double precision.
"""

import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.digests import DIGEST, PUBLISHED, check_published, file_digest, tensor_digest
from models.resnets import RESNETS, encoder_tensors
from utils.errors import UserError, listed, quoted
from utils.input_spec import PICTURE_BANDS, SECO_SPEC, InputSpec, letters
from utils.torch_files import read_torch_file

# Position of a child in nn.Sequential(*resnet.children()), and its name in torchvision.
SEQUENTIAL = dict(
    zip("014567", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=True)
)
_QUERY = "encoder_q."  # prefix of the query encoder's tensors, in MoCo and in SeCo
_WRAPPER = "module."  # of torch.nn.parallel
# Two tensors that only a complete ResNet has, by torchvision's names and by position.
_LANDMARKS = (("conv1.weight", "layer1.0.conv1.weight"), ("0.weight", "4.0.conv1.weight"))
_NESTING = 2  # dicts around a state dict, such as {"model": {"student": state}}
_FLOATS = (torch.float16, torch.bfloat16, torch.float64)  # converted to float32
# torchgeo's converted SeCo encoders, under any name.
_TORCHGEO_SECO = tuple(digest for kind, digest in PUBLISHED.values() if kind == "sha256")
_MAX_BANDS = 1000
# Absent from files before torch 0.4.1, and a float if a script converted every tensor; only
# training reads it.
_COUNTER = ".num_batches_tracked"

State = dict[Any, Any]


class EncoderFile(NamedTuple):
    """Encoder of a file, and the contract of its input."""

    architecture: str  # one of ``RESNETS``
    tensors: dict[str, Tensor]  # without a classifier's, with torchvision's names
    spec: InputSpec  # contract of its input


class _Content(NamedTuple):
    """Unchecked content of a file."""

    state: State
    architecture: object = None
    contract: object = None  # as written by ``InputSpec.to_dict``
    spec: InputSpec | None = None  # known without the file


class _Unfit(ValueError):
    """The defect of a file, as the end of a sentence that begins with its name."""


def read_encoder_file(
    path: Path, architecture: str | None = None, bands: Sequence[str] | None = None
) -> EncoderFile:
    """Read an encoder.

    Args:
        path: File, or folder that ``models.export --format timm`` wrote.
        architecture: Name that the user requires; None accepts any.
        bands: Names of the channels for a file that does not name them; red, green and blue if
            None.

    Raises:
        UserError: The file is damaged or of another kind, a tensor is missing, unknown, of another
            shape or type, or not finite; or encoder or bands are other ones than required.
    """
    if path.is_dir():
        path /= "model.safetensors"  # the file that timm opens
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}: correct the path")
    check_published(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # Its content decides, not its name.
        content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)
        tensors = _torchvision_names(content.state)
        stem = tensors.get("conv1.weight")
        if stem is None:
            named = listed(sorted(tensors)) or "no tensor"
            raise _Unfit(f"holds no encoder: conv1.weight is missing, there is {named}")
        if stem.ndim != 4 or not 3 <= stem.shape[1] <= _MAX_BANDS:
            shape = quoted(str(tuple(stem.shape)))
            raise _Unfit(f"holds no encoder: conv1.weight has shape {shape}, not 3 or more bands")
        name = _named(content, tensors, architecture)
        return EncoderFile(name, _checked(tensors, name), _contract(content, stem, bands))
    except _Unfit as error:
        raise UserError(f"{path} {error}") from error


def _read_torch(path: Path) -> _Content:
    """Read a checkpoint of Lightning, or a bare state dict."""
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise _Unfit(f"is not a checkpoint: it holds a {type(content).__name__}")
    state, prefix = _find_encoder(content)
    by_position = "0.weight" in state
    if prefix == _QUERY or (prefix == _WRAPPER + _QUERY and by_position):
        # Before this code, all query encoders had the inputs of SeCo.
        hparams = content.get("hyper_parameters")
        hparams = hparams if isinstance(hparams, dict) else {}
        spec = InputSpec.of_pictures() if "input_spec" in hparams else SECO_SPEC
        return _Content(state, hparams.get("base_encoder"), hparams.get("input_spec"), spec)
    # Where models/export.py keeps the contract of a state dict, whose entries are tensors alone.
    metadata = getattr(state, "_metadata", None)
    known = metadata.get("contract") if isinstance(metadata, dict) else None
    if isinstance(known, dict):
        return _Content(state, known.get("architecture"), known.get("input_spec"))
    is_seco = by_position and prefix in ("", _WRAPPER)
    if is_seco or file_digest(path, "sha256").startswith(_TORCHGEO_SECO):
        return _Content(state, spec=SECO_SPEC)
    return _Content(state)


def _read_safetensors(path: Path) -> _Content:
    """Read the tensors and the header, whose values are text."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        contract = json.loads(header.get("input_spec", "null"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _Unfit(f"is not a readable safetensors file: {quoted(str(error), 200)}") from error
    # The format has no checksums. A digest is known by its text too, if its name is damaged.
    digests = [text for name, text in header.items() if name == DIGEST or text[:7] == "sha256:"]
    known = {"architecture": header.get("architecture"), "input_spec": contract}
    if digests and digests != [tensor_digest(state, known)]:
        raise _Unfit("is damaged, its sha256 is another one: download or copy it again")
    return _Content(_find_encoder(state)[0], header.get("architecture"), contract)


def _find_encoder(content: State) -> tuple[State, str]:
    """Return the tensors of the only ResNet of a file, and the prefix that their names had.

    In files of SeCo and MoCo, that is the query encoder.
    """
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise _Unfit("is not a checkpoint: its state_dict is not a dict")
    # A checkpoint of Lightning may also hold the weights of its best epoch: state_dict decides.
    found = _encoders({"state_dict": state}) if "state_dict" in content else []
    found = found or _encoders(content)
    found = [one for one in found if one[1] == _QUERY or one[1].endswith(f".{_QUERY}")] or found
    if len(found) > 1:
        names = listed([f"{keys}{prefix}*" for keys, prefix, _ in found], 6)
        raise _Unfit(f"holds {len(found)} encoders, {names}: save one of them with torch.save")
    _, prefix, state = found[0] if found else ("", "", state)
    if not found and any(isinstance(key, str) and key.startswith(_QUERY) for key in state):
        prefix = _QUERY
    if prefix:  # else the same object, because its attributes may hold the contract
        own = [key for key in state if isinstance(key, str) and key.startswith(prefix)]
        state = {key.removeprefix(prefix): state[key] for key in own}
    return state, prefix


def _encoders(content: State) -> list[tuple[str, str, State]]:
    """Find ResNets in nested dicts: the keys to each, the prefix of its names, its state dict."""
    return [
        (keys, key.removesuffix(first), state)
        for keys, state in nested_dicts(content)
        for first, other in _LANDMARKS
        for key in state
        if isinstance(key, str)
        and (key == first or key.endswith(f".{first}"))
        and f"{key.removesuffix(first)}{other}" in state
    ]


def nested_dicts(content: State) -> list[tuple[str, State]]:
    """Return a dict and the dicts in it, each once, with the keys to it, such as "model > "."""
    level: dict[int, tuple[str, State]] = {id(content): ("", content)}
    found = dict(level)
    for _ in range(_NESTING):
        level = {
            id(value): (f"{keys}{key} > ", value)
            for keys, state in level.values()
            for key, value in state.items()
            if isinstance(key, str) and isinstance(value, dict) and id(value) not in found
        }
        found |= level
    return list(found.values())


def _torchvision_names(state: State) -> dict[str, Tensor]:
    """Rename positions in ``nn.Sequential`` to torchvision's names, and drop a classifier."""
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(key, str) and key.startswith("fc.") and "0.weight" not in state:
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _Unfit(f"holds no encoder: {reprlib.repr(key)} is not a named tensor")
        child, dot, rest = key.partition(".")
        name = SEQUENTIAL.get(child, child) + dot + rest
        if name in tensors:
            raise _Unfit(f"names {name} twice, as torchvision does and by position")
        tensors[name] = value
    return tensors


def _named(content: _Content, tensors: dict[str, Tensor], required: str | None) -> str:
    """Return the architecture that the file names, or the ResNet whose tensors differ least."""
    name = content.architecture
    if name is None:
        found = {(key, tensor.shape) for key, tensor in tensors.items()}
        in_channels = tensors["conv1.weight"].shape[1]

        def difference(name: str) -> int:
            table = encoder_tensors(name, in_channels)
            return len(found ^ {(key, shape) for key, (shape, _) in table.items()})

        name = min(RESNETS, key=difference)
    if not isinstance(name, str) or name not in RESNETS:
        known = " ".join(RESNETS)
        raise _Unfit(f"cannot be read: its encoder is {reprlib.repr(name)}, not one of {known}")
    if required not in (None, name):
        raise _Unfit(f"holds a {name}, not the {required} of --base_encoder: leave that out")
    return name


def _checked(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Convert to float32; names, shapes and types must be the architecture's, numbers finite."""
    table = encoder_tensors(name, tensors["conv1.weight"].shape[1])
    if not any(k.endswith(_COUNTER) and v.dtype == torch.int64 for k, v in tensors.items()):
        tensors = tensors | {key: torch.tensor(0) for key in table if key.endswith(_COUNTER)}
    types = {k: torch.float32 if t.dtype in _FLOATS else t.dtype for k, t in tensors.items()}
    shared = tensors.keys() & table.keys()
    fit = {key for key in shared if (tensors[key].shape, types[key]) == table[key]}
    faults = {
        "missing": table.keys() - shared,
        "too many": tensors.keys() - shared,
        "of another shape or type": {
            f"{key}: {str(tensors[key].dtype).removeprefix('torch.')} {tuple(tensors[key].shape)}"
            for key in shared - fit
        },
        "not finite": {key for key in fit if not tensors[key].to(types[key]).isfinite().all()},
    }
    shown = [
        f"{len(keys)} {fault} ({listed(sorted(keys))})" for fault, keys in faults.items() if keys
    ]
    if shown:
        raise _Unfit(f"does not fit a {name}: of its tensors {', '.join(shown)}")
    return {key: tensor.to(types[key]) for key, tensor in tensors.items()}


def _contract(content: _Content, stem: Tensor, bands: Sequence[str] | None) -> InputSpec:
    """Return the contract; without one in the file, the input is 8-bit pictures."""
    spec, count = content.spec, stem.shape[1]
    if content.contract is not None:
        try:
            spec = InputSpec.from_dict(content.contract)  # type: ignore[arg-type]  # see the errors
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _Unfit(f"has a damaged input_spec: {quoted(str(error), 200)}") from error
    if spec is None:
        spec = InputSpec.of_pictures(bands or PICTURE_BANDS)
    known = " ".join(spec.bands)
    if len(spec.bands) != count:
        raise _Unfit(f"takes {count} bands: give {count} names with --bands, not {known}")
    if bands is not None and letters(bands) != letters(spec.bands):
        raise _Unfit(f"was trained on {known}, not on {' '.join(bands)}: leave --bands out")
    return spec
