r"""Export an encoder for other programs, with the contract of its input as metadata.

python -m models.export --ckpt_path seco_resnet18_1m.ckpt --format safetensors \
  --save_path seco_resnet18_1m.safetensors

Every file that --backbone_type pretrain reads can be exported. The formats hold the encoder without
a classifier, with torchvision's names; --backbone_type pretrain reads all of them except onnx.

torchvision  state dict, the contract in its _metadata, the sha256 in the comment of the zip
timm         folder for timm.create_model("local-dir:FOLDER", pretrained=True), from timm 1.0.26 on
safetensors  tensors, contract and sha256 in the header
onnx         graph from normalised pictures (B, C, H, W) to features (B, D), contract and
             sha256 in metadata_props; needs the packages onnx and onnxscript
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import logging
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.digests import DIGEST, tensor_digest
from utils.cli import run
from utils.errors import UserError
from utils.files import check_can_write, check_checkpoint, written_whole
from utils.flags import Parser

# torch is imported by the functions that use it, after the flags are checked.
if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models import ResNet

_PIXELS = 224  # of the example from which the ONNX graph is traced, and of timm's default


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__, prog="python -m models.export")
    add = parser.add_argument
    source = "Checkpoint of the encoder, see checkpoints/README.md."
    add("--ckpt_path", type=Path, required=True, help=source)
    add("--format", choices=_WRITERS, required=True, help="Format to write, see above.")
    add("--save_path", type=Path, required=True, help="New file or folder to write.")
    bands = "Names of the channels, for a checkpoint that does not contain them."
    add("--bands", nargs="+", metavar="BAND", help=bands)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Write the encoder completely or not at all, and return its path."""
    args = parse_args(argv)
    target: Path = args.save_path
    check_checkpoint("ckpt_path", args.ckpt_path)
    if target.exists():
        raise UserError(f"{target} exists: choose another --save_path, or delete it")
    check_can_write("save_path", target, is_folder=False)
    from torch import nn

    from models.encoder_file import read_encoder_file
    from models.resnets import SLIM, build_resnet

    name, tensors, spec = read_encoder_file(args.ckpt_path, bands=args.bands)
    if name == SLIM and args.format in ("timm", "torchvision"):
        raise UserError(
            f"{args.format} has no {SLIM}: use --format safetensors or onnx, or train a resnet18"
        )
    resnet = build_resnet(name, in_channels=len(spec.bands))
    resnet.fc = nn.Identity()
    resnet.load_state_dict(tensors)
    contract = {"architecture": name, "input_spec": spec.to_dict()}
    # torch reports a full disk with a RuntimeError.
    with written_whole(target, RuntimeError) as partial:
        _WRITERS[args.format](resnet.eval(), contract, partial)
    print(f"{target}: {name} on {' '.join(spec.bands)}")
    return target


def _write_torchvision(resnet: ResNet, contract: Mapping[str, Any], path: Path) -> None:
    """Write a state dict; torch keeps its ``_metadata`` and ignores unknown entries."""
    from utils.torch_files import save_torch_file

    state = resnet.state_dict()
    # An entry of its own would not load: torchvision wants its tensors and nothing else.
    state._metadata["contract"] = dict(contract)
    save_torch_file(state, path)


def _write_safetensors(resnet: ResNet, contract: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save  # save_file lets nobody else read the file

    state = {name: tensor.contiguous() for name, tensor in resnet.state_dict().items()}
    path.write_bytes(save(state, {"format": "pt"} | _header(state, contract)))


def _write_timm(resnet: ResNet, contract: Mapping[str, Any], path: Path) -> None:
    """Write a folder that timm opens without a network.

    timm uses torchvision's names for these ResNets and their tensors. Its ``mean`` and ``std`` are
    those of stretched pictures.
    """
    spec, channels = contract["input_spec"], resnet.conv1.in_channels
    config = dict(contract) | {
        "num_classes": 0,
        "num_features": resnet.inplanes,
        "model_args": {"in_chans": channels},
        "pretrained_cfg": {
            "input_size": [channels, _PIXELS, _PIXELS],
            "mean": spec["mean"],
            "std": spec["std"],
            "num_classes": 0,
            # timm converts a first filter that it knows to three bands
            "first_conv": "conv1" if channels == 3 else None,
            "classifier": "fc",
        },
    }
    path.mkdir()
    _write_safetensors(resnet, contract, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _write_onnx(resnet: ResNet, contract: Mapping[str, Any], path: Path) -> None:
    """Write one file; the input is any number of pictures of any size."""
    try:
        import onnxscript  # noqa: F401  # optional; torch needs it for the export
    except ImportError as error:
        raise UserError("--format onnx needs more: pip install onnx onnxscript") from error
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    sizes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own exporter
        program = torch.onnx.export(
            resnet,
            (torch.zeros(2, resnet.conv1.in_channels, _PIXELS, _PIXELS),),
            input_names=["input"],
            output_names=["features"],
            dynamic_shapes=[{axis: torch.export.Dim(name) for axis, name in sizes.items()}],
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # only with a path
    program.model.metadata_props.update(_header(resnet.state_dict(), contract))
    program.save(path, external_data=False)


def _header(state: Mapping[str, Tensor], contract: Mapping[str, Any]) -> dict[str, str]:
    """Return contract and digest for formats whose metadata is text."""
    spec = json.dumps(contract["input_spec"])
    digest = tensor_digest(state, contract)
    return {"architecture": contract["architecture"], "input_spec": spec, DIGEST: digest}


_WRITERS = {
    "torchvision": _write_torchvision,
    "timm": _write_timm,
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
}


if __name__ == "__main__":
    run(main)
