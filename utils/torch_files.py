"""Read files of ``torch.save`` without running code in them.

Such a file is a pickle: a program that may name any function of Python and call it. It is read by
``torch.load(weights_only=True)``, which knows the few instructions that weights need and looks
names up in a table instead of importing them. Two checks come first, because a file that runs no
code may still fill the memory: limits of the zip, and a shorter table of names than torch's, which
has ``bytearray``, for example. ``get_unsafe_globals_in_checkpoint`` of torch lists the names of
zips only. Lightning 1.1 left names of its own in the published checkpoints; ``Inert`` stands for
them, so that neither Lightning nor its code is needed.
"""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import UserError, listed, quoted

# A wide_resnet101_2 with its moving average, momentum and queues has 1.6 GB.
MAX_FILE_BYTES = 16 * 2**30
# The pickle holds names and shapes, not the tensors: 0.7 MB for the largest ResNet.
MAX_PICKLE_BYTES = 4 * 2**20
MAX_ENTRIES = 100_000  # of a zip: one per tensor
# Uses of a tuple that was built before, such as Adam's betas in several groups. Sixty tuples, each
# of which holds the previous one twice, are few bytes, but hashing the last one would take years.
MAX_REUSED_TUPLES = 30
# A tensor has about five. Python hashes nested tuples recursively: 150,000 levels as the key of a
# dictionary end the process; 50,000 do not.
MAX_TUPLES = 30_000
# First bytes of files that are mistaken for checkpoints, and what to do with each. Sources: the
# specification of Git LFS pointers (git-lfs/docs/spec.md), HTML's doctype, HDF5's and NumPy's
# format signatures, RFC 1952 of gzip, and onnx.proto, whose first fields are 1 (ir_version, a
# number) and 2 to 8.
_STRANGERS = (
    (
        re.compile(rb".{8}\{", re.DOTALL),
        "a safetensors file, which has tensors but no run state",
    ),
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a Git LFS pointer to the file: run `git lfs pull` in its repository",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--|\?xml)", re.IGNORECASE),
        "a web page: the address is that of a download page or needs a login, download the file "
        "itself",
    ),
    (re.compile(rb"\s*[{\[]"), "a text in JSON: download the file again"),
    (re.compile(rb"[45]\d\d[: ]"), "the error of a server: check its address, download it again"),
    (
        re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]"),
        "an ONNX graph for other programs: give what it was exported from",
    ),
    (
        re.compile(rb"\x89HDF\r\n\x1a\n"),
        "an HDF5 file, as Keras writes: save its tensors with torch.save",
    ),
    (re.compile(rb"\x93NUMPY"), "a NumPy array: save a state dict with torch.save"),
    (re.compile(rb"\x1f\x8b"), "compressed by gzip: unpack it"),
    (re.compile(rb"\0"), "a block of zeros: download or copy it again"),
)
_LEGACY_PICKLES = 5  # magic number, version, machine, content and list of storages
_ZIP = b"PK"
_MAX_PROTOCOL = 3  # weights_only=True does not know the instructions of later pickle protocols
_MAGIC = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)  # of files before torch 1.6
_LIGHTNING = "pytorch_lightning"
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")


class Inert:
    """Stands for a class or function of another program: takes anything and does nothing."""

    __slots__ = ()

    def __new__(cls, *arguments: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_NAMING = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}  # instructions that name
# Names that a pickle may use: containers and tensors, which torch itself creates, ...
_PLAIN = {
    "collections.OrderedDict",
    "collections.Counter",  # milestones of MultiStepLR
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{kind}Storage" for kind in _STORAGES),
}
# ... and those that the files of 2021 also have.
_FOREIGN: dict[str, type] = {
    f"{_LIGHTNING}.utilities.parsing.AttributeDict": dict,  # torch fills no subclass of dict
    f"{_LIGHTNING}.callbacks.model_checkpoint.ModelCheckpoint": Inert,
    f"{_LIGHTNING}.callbacks.early_stopping.EarlyStopping": Inert,
    f"{_LIGHTNING}.utilities.argparse_utils._gpus_arg_default": Inert,
    f"{_LIGHTNING}.utilities.argparse._gpus_arg_default": Inert,
}


def read_torch_file(path: Path) -> Any:
    """Read what ``torch.save`` wrote, on the CPU.

    Raises:
        UserError: The file is missing, damaged, of another format, or holds more than weights.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise UserError(f"{path} has {size:,} bytes, more than any checkpoint: {MAX_FILE_BYTES:,}")
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # 3, which torch can read
        start = file.read(512)
        _check_format(start, path)
        try:
            if start.startswith(_ZIP):
                _check_pickle(io.BytesIO(_pickle_of_zip(file, path, size)), path)
            else:
                _check_legacy(file, path)
            file.seek(0)
            foreign: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
            foreign = [(stub, name) for name, stub in _FOREIGN.items()]
            with torch.serialization.safe_globals(foreign):
                return torch.load(file, map_location="cpu", weights_only=True)
        except UserError:
            raise
        except Exception as error:  # damage can cause any error
            raise UserError(f"{path} is not a readable checkpoint: {_reason(error)}") from error


def _check_format(start: bytes, path: Path) -> None:
    """Refuse a file of another kind than ``torch.save`` writes, and name its kind.

    Args:
        start: First bytes of the file, at least 20 if it has them.
        path: The file, for the error.
    """
    if not start:
        raise UserError(f"{path} is empty: download or copy it again")
    for pattern, what in _STRANGERS:
        if pattern.match(start):
            raise UserError(f"{path} is not a checkpoint but {what}")


def _pickle_of_zip(file: BinaryIO, path: Path, size: int) -> bytes:
    """Return the only pickle of a zip that is not larger when it is read than on the disk."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.partition("/")[2] for entry in entries}
        if "constants.pkl" in names:
            raise UserError(f"{path} is a TorchScript archive, which is code: give a state dict")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        fault = None
        if len(names) < len(entries) or len(entries) > MAX_ENTRIES:
            fault = "its zip has an odd directory"
        elif any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            fault = "its zip is packed"
        elif sum(entry.file_size for entry in entries) > size:
            fault = "its entries overlap"
        elif not pickles:
            inside = listed([entry.filename for entry in entries])
            fault = "it is a zip without data.pkl" + (
                f", which holds {inside}: unpack it" if inside else ""
            )
        elif pickles[0].file_size > MAX_PICKLE_BYTES:
            fault = "its pickle is too large"
        if fault is not None:
            raise UserError(f"{path} is not a readable checkpoint: {fault}")
        return archive.read(pickles[0])


def _check_legacy(file: BinaryIO, path: Path) -> None:
    """Check the pickles of a file of torch before 1.6; the tensors follow them."""
    file.seek(0)
    start = file.read(MAX_PICKLE_BYTES)
    stream = io.BytesIO(start)
    for _ in range(_LEGACY_PICKLES):
        _check_pickle(stream, path)
        if stream.tell() == len(start):
            break
    if not start.startswith(_MAGIC):
        raise UserError(
            f"{path} is not a readable checkpoint: it is a pickle that torch.save did not write: "
            "save its tensors with torch.save(state_dict, FILE)"
        )


def _check_pickle(stream: BinaryIO, path: Path) -> None:
    """Read a pickle to its end; refuse names that weights do not need, and bombs of tuples."""
    named, reused, tuples, top_is_tuple, num_tuples = set(), 0, set(), False, 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "PROTO" and int(argument or 0) > _MAX_PROTOCOL:
            raise UserError(
                f"{path} is not a readable checkpoint: it is a pickle of protocol {argument}, "
                "which might run code, and torch.save writes protocol 2: if you trust it, load it "
                "where it was written and save it there with torch.save(state_dict, FILE)"
            )
        if opcode.name in _NAMING:
            named.add(str(argument or opcode.name).replace(" ", ".", 1))
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            tuples.update([argument] if top_is_tuple else [])
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            top_is_tuple = argument in tuples
            reused += top_is_tuple
        else:
            top_is_tuple = opcode.name.startswith("TUPLE")
            num_tuples += top_is_tuple
    refused = sorted(named - _PLAIN - _FOREIGN.keys())
    if refused:
        raise UserError(
            f"{path} is not a readable checkpoint: it holds {listed(refused)}, which might run "
            "code, and weights need none of it"
        )
    if reused > MAX_REUSED_TUPLES or num_tuples > MAX_TUPLES:
        raise UserError(f"{path} is not a readable checkpoint: it nests tuples without end")


def _reason(error: Exception) -> str:
    """Return the reason in one line, without torch's advice to run what is in the file."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "weights_only" in text or "eights only" in text:
        return "it is damaged, or holds more than tensors and builtins, which might run code"
    return quoted(text, limit=200)
