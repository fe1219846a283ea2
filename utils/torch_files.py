"""Files of ``torch.save``, opened without running anything that is in them.

Such a file is a pickle: a program that may name any function of Python and call it. Four gates
stand before the content: the size of the file, a zip whose entries are stored and not packed, a
pickle that names nothing but the tables below, and ``torch.load(weights_only=True)``, which looks
names up in tables of its own and never imports one. The names that Lightning 1.1 left in the
published checkpoints are answered with ``Inert``, so neither Lightning nor its code is needed.

The third gate is our own, for ``torch.serialization.get_unsafe_globals_in_checkpoint`` reads zips
alone, and torch's table is longer than ours: ``bytearray(2**40)`` would pass it.
"""

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import UserError, listed, quoted

# A wide_resnet101_2 with its moving average, momentum and queues has 1.6 GB.
MAX_FILE_BYTES = 16 * 2**30
# The pickle holds names and shapes, the tensors lie beside it: 0.7 MB for the largest ResNet.
MAX_PICKLE_BYTES = 4 * 2**20
MAX_ENTRIES = 100_000  # of a zip: one per tensor
# Uses of a tuple that was built before, such as Adam's betas in several groups. Tuples of the same
# tuples, 60 deep, are a few hundred bytes, but as a key of a dict they would be hashed for years.
MAX_REUSED_TUPLES = 30
# How files begin that people take for checkpoints, and what to do with each. The sources are: the
# specification of Git LFS pointers (git-lfs/docs/spec.md), HTML's doctype, HDF5's and NumPy's
# format signatures, RFC 1952 of gzip, and onnx.proto, whose first fields are 1 (ir_version, a
# number) and 2 to 8.
_STRANGERS = (
    (re.compile(rb".{8}\{", re.DOTALL), "a safetensors file, which has tensors but no run"),
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a Git LFS pointer that stands for the file: run `git lfs pull` in its repository",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--|\?xml)", re.IGNORECASE),
        "a web page: its address is that of a download page or needs a login, download the file "
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
    (re.compile(rb"\0"), "no checkpoint, as it begins with zeros: download or copy it again"),
)
_LEGACY_PICKLES = 5  # magic number, version, machine, content and list of storages
_ZIP = b"PK"
_PROTOCOL = 2  # torch's DEFAULT_PROTOCOL; weights_only=True knows no instructions of later ones
_MAGIC = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)  # begins files before torch 1.6
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


# What the pickler of torch.save does, in protocol 2.
_OPCODES = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
}
# What a pickle may name: containers and tensors, which torch itself makes, ...
_PLAIN = {
    "collections.OrderedDict",
    "collections.Counter",  # milestones of MultiStepLR
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{kind}Storage" for kind in _STORAGES),
}
# ... and what the files of 2021 hold beside them.
_FOREIGN: dict[str, type] = {
    f"{_LIGHTNING}.utilities.parsing.AttributeDict": dict,  # torch fills no subclass of dict
    f"{_LIGHTNING}.callbacks.model_checkpoint.ModelCheckpoint": Inert,
    f"{_LIGHTNING}.callbacks.early_stopping.EarlyStopping": Inert,
    f"{_LIGHTNING}.utilities.argparse_utils._gpus_arg_default": Inert,
    f"{_LIGHTNING}.utilities.argparse._gpus_arg_default": Inert,
}


def read_torch_file(path: Path) -> Any:
    """Read what ``torch.save`` wrote, on the CPU; whatever is wrong with it is a ``UserError``."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise UserError(f"{path} has {size:,} bytes, more than any checkpoint: {MAX_FILE_BYTES:,}")
    with path.open("rb") as file:
        start = file.read(512)
        _check_format(start, path)
        file.seek(0)
        try:
            pickles = _pickles(file, path, size)
            for pickled in pickles:
                _check_pickle(pickled, path)
            if pickles[0] != _MAGIC and not start.startswith(_ZIP):
                raise UserError(
                    f"{path} is not a readable checkpoint: it is a pickle that torch.save did not "
                    "write: save its tensors with torch.save(state_dict, FILE)"
                )
            file.seek(0)
            foreign: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
            foreign = [(stub, name) for name, stub in _FOREIGN.items()]
            with torch.serialization.safe_globals(foreign):
                return torch.load(file, map_location="cpu", weights_only=True)
        except UserError:
            raise
        except Exception as error:  # damage meets the readers anywhere
            raise UserError(f"{path} is not a readable checkpoint: {_reason(error)}") from error


def _check_format(start: bytes, path: Path) -> None:
    """Refuse a file of another kind than ``torch.save`` writes, and say what it is.

    Args:
        start: Its first bytes.
        path: The file, for the error.
    """
    if not start:
        raise UserError(f"{path} is empty: download or copy it again")
    for pattern, what in _STRANGERS:
        if pattern.match(start):
            raise UserError(f"{path} is not a checkpoint but {what}")


def _pickles(file: BinaryIO, path: Path, size: int) -> list[bytes]:
    """Return the pickles of the file, from a zip (torch 1.6 and later) or from before."""
    start = file.read(MAX_PICKLE_BYTES)
    if start.startswith(_ZIP):
        return [_pickle_of_zip(file, path, size)]
    stream, pickles = io.BytesIO(start), list[bytes]()
    for _ in range(_LEGACY_PICKLES):
        begin = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        pickles.append(start[begin : stream.tell()])
        if stream.tell() == len(start):
            break
    return pickles


def _pickle_of_zip(file: BinaryIO, path: Path, size: int) -> bytes:
    """Return the only pickle of a zip that is no larger when it is read than on the disk."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.partition("/")[2] for entry in entries}
        if "constants.pkl" in names:
            raise UserError(f"{path} is a TorchScript archive, which is code: give a state dict")
        if len(names) < len(entries) or len(entries) > MAX_ENTRIES:
            raise UserError(f"{path} is not a readable checkpoint: its zip has an odd directory")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError(f"{path} is not a readable checkpoint: its zip is packed")
        if sum(entry.file_size for entry in entries) > size:
            raise UserError(f"{path} is not a readable checkpoint: its entries overlap")
        pickled = next((entry for entry in entries if entry.filename.endswith("/data.pkl")), None)
        if pickled is None:
            inside = [entry.filename for entry in entries]
            raise UserError(
                f"{path} is not a readable checkpoint: it is a zip without data.pkl"
                + (f", which holds {listed(inside)}: unpack it" if inside else "")
            )
        if pickled.file_size > MAX_PICKLE_BYTES:
            raise UserError(f"{path} is not a readable checkpoint: its pickle is too large")
        return archive.read(pickled)


def _check_pickle(pickled: bytes, path: Path) -> None:
    """Refuse a pickle that does or names anything but what weights need."""
    named, reused, tuples, top_is_tuple = set(), 0, set(), False
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "PROTO" and argument != _PROTOCOL:
            raise UserError(
                f"{path} is not a readable checkpoint: it is a pickle of protocol {argument}, "
                f"which might run code, and torch.save writes protocol {_PROTOCOL}: if you trust "
                "it, load it where it was written and save it there with torch.save(state_dict, "
                "FILE)"
            )
        if opcode.name not in _OPCODES:
            raise UserError(
                f"{path} is not a readable checkpoint: it uses {opcode.name}, which torch.save "
                "does not write and which might run code"
            )
        if opcode.name == "GLOBAL":
            named.add(str(argument).replace(" ", ".", 1))
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            tuples.update([argument] if top_is_tuple else [])
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            top_is_tuple = argument in tuples
            reused += top_is_tuple
        elif opcode.name != "PROTO":
            top_is_tuple = opcode.name.startswith("TUPLE")
    refused = sorted(named - _PLAIN - _FOREIGN.keys())
    if refused:
        raise UserError(
            f"{path} is not a readable checkpoint: it holds {listed(refused)}, which might run "
            "code, and weights need none of it"
        )
    if reused > MAX_REUSED_TUPLES:
        raise UserError(f"{path} is not a readable checkpoint: it nests tuples without end")


def _reason(error: Exception) -> str:
    """Say in one line what is wrong, without the advice of torch to run what is in the file."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "weights_only" in text or "eights only" in text:
        return "it is damaged, or holds more than tensors and builtins, which might run code"
    return quoted(text, limit=200)
