"""Write files of ``torch.save`` with their sha256, and read them without running code in them.

The sha256 of all bytes before it is the comment of the zip, so that it is copied with the file.

Such a file is a pickle: a program that may name any function of Python and call it.
``torch.load(weights_only=True)`` looks names up in a table instead of importing them. A scan of the
pickle comes first, because a file that runs no code may still fill the memory or the stack, and
torch's table has more names than weights need. Lightning 1.1 left names of its own in the published
checkpoints; ``Inert`` stands for them.
"""

import hashlib
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import UserError, listed, quoted

# The pickle holds names and shapes, not the tensors: 0.7 MB for the largest ResNet.
MAX_PICKLE_BYTES = 4 * 2**20
# Uses of a tuple that was built before, such as Adam's betas in several groups. Sixty tuples, each
# of which holds the previous one twice, are few bytes, but hashing the last one would take years.
MAX_REUSED_TUPLES = 30
# A tensor has about five. Python hashes nested tuples recursively: 150,000 levels as the key of a
# dictionary end the process; 50,000 do not.
MAX_TUPLES = 30_000
# First bytes of files that are mistaken for checkpoints, and what they are. Sources: the
# specification of Git LFS pointers (git-lfs/docs/spec.md), the signatures of HTML, HDF5 and NumPy,
# RFC 1952 of gzip, and onnx.proto, whose first fields are 1 (ir_version, a number) and 2 to 8.
_AGAIN = "download or copy it again"
_STRANGERS = {
    rb".{8}\{": "a safetensors file, which has tensors but no run state",
    rb"version https://git-lfs\.github\.com/spec/": (
        "a Git LFS pointer to the file: run `git lfs pull` in its repository"
    ),
    rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--|\?xml)": (
        "a web page: perhaps a login is needed, download the file itself"
    ),
    rb"\s*[{\[]": f"a text in JSON: {_AGAIN}",
    rb"[45]\d\d[: ]": f"the error of a server: {_AGAIN}",
    rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]": (
        "an ONNX graph for other programs: give what it was exported from"
    ),
    rb"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes: save its tensors with torch.save",
    rb"\x93NUMPY": "a NumPy array: save a state dict with torch.save",
    rb"\x1f\x8b": "compressed by gzip: unpack it",
    rb"\0": f"a block of zeros: {_AGAIN}",
}
_END = b"PK\5\6"  # of a zip: 22 bytes from here on, the last two the length of the comment
_SEAL_BYTES = 71  # "sha256:" and 64 digits
_BLOCK = 2**22  # bytes that are read at once
_LEGACY_PICKLES = 5  # magic number, version, machine, content and list of storages
_MAX_PROTOCOL = 3  # weights_only=True does not know the instructions of later pickle protocols
_MAGIC = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)  # of files before torch 1.6


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
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
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
    f"pytorch_lightning.{name}": stub
    for name, stub in {
        "utilities.parsing.AttributeDict": dict,  # torch fills no subclass of dict
        "callbacks.model_checkpoint.ModelCheckpoint": Inert,
        "callbacks.early_stopping.EarlyStopping": Inert,
        "utilities.argparse_utils._gpus_arg_default": Inert,
        "utilities.argparse._gpus_arg_default": Inert,
    }.items()
}


def save_torch_file(content: Any, path: Path) -> None:
    """Write with ``torch.save``, and put the sha256 of the file into the comment of the zip.

    Args:
        content: Tensors and builtins.
        path: File to write, not yet under its final name: this write may be interrupted.
    """
    with path.open("w+b") as file:
        torch.save(content, file)
        file.seek(-2, io.SEEK_END)
        file.write(_SEAL_BYTES.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(f"sha256:{digest}".encode())


def read_torch_file(path: Path) -> Any:
    """Read what ``torch.save`` wrote, on the CPU.

    Raises:
        UserError: The file is missing, damaged, of another format, or holds more than weights.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}: correct the path")
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # 3, which torch can read
        start = file.read(512)
        _check_format(start, path)
        try:
            (_check_zip if start.startswith(b"PK") else _check_legacy)(file)
            file.seek(0)
            foreign: list[Any] = [(stub, name) for name, stub in _FOREIGN.items()]
            with torch.serialization.safe_globals(foreign):
                return torch.load(file, map_location="cpu", weights_only=True)
        except UserError as error:
            raise UserError(f"{path} is not a readable checkpoint: {error}") from error
        except Exception as error:  # damage can cause any error
            reason = quoted(f"{error}".partition("\n")[0] or type(error).__name__, 200)
            if "eights only" in reason or "weights_only" in reason:  # torch advises to run it
                reason = "it holds more than tensors and builtins, which might run code"
            raise UserError(
                f"{path} is not a readable checkpoint: {reason}; {_AGAIN} if it is damaged"
            ) from error


def _check_format(start: bytes, path: Path) -> None:
    """Refuse a file of another kind by its first bytes, and name its kind."""
    if not start:
        raise UserError(f"{path} is empty: {_AGAIN}")
    for pattern, what in _STRANGERS.items():
        if re.match(pattern, start, re.DOTALL):
            raise UserError(f"{path} is not a checkpoint but {what}")


def _check_zip(file: BinaryIO) -> None:
    """Check the only pickle of a zip that is not larger when it is read than on the disk."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        _check_seal(file, size, archive.comment)
        entries = archive.infolist()
        by_name = {entry.orig_filename: entry for entry in entries}
        root = next(iter(by_name), "").partition("/")[0]
        pickled = by_name.get(f"{root}/data.pkl")
        if f"{root}/constants.pkl" in by_name:
            raise UserError("it is a TorchScript archive, which is code: give a state dict")
        if pickled is None:
            inside = listed([entry.filename for entry in entries]) or "nothing"
            raise UserError(f"it is a zip without data.pkl, which holds {inside}: unpack it")
        if (
            len({name.lower() for name in by_name}) < len(entries)  # to torch, one name twice
            or not all(name.startswith(f"{root}/") for name in by_name)  # two archives
            or min(entry.header_offset for entry in entries)  # another file before this one
            or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            or sum(entry.file_size for entry in entries) > size  # entries overlap
            or pickled.file_size > MAX_PICKLE_BYTES
        ):
            raise UserError("its zip is not one that torch.save writes")
        _check_pickle(io.BytesIO(archive.read(pickled)))
        if damaged := archive.testzip():  # torch does not compare the checksums of tensors
            raise UserError(f"{quoted(damaged)} in it is damaged: {_AGAIN}")


def _check_seal(file: BinaryIO, size: int, comment: bytes) -> None:
    """Compare the sha256 of the file with that in its comment; files of others have none."""
    rest = size - len(comment)
    file.seek(max(0, rest - 22))
    end = file.read(22)
    if end[:4] != _END or end[20:] != len(comment).to_bytes(2, "little"):  # more or less follows
        raise UserError(f"its end is damaged: {_AGAIN}")
    if not comment:
        return
    digest = hashlib.sha256()
    file.seek(0)
    for start in range(0, rest, _BLOCK):
        digest.update(file.read(min(_BLOCK, rest - start)))
    if comment != f"sha256:{digest.hexdigest()}".encode():
        raise UserError(f"its sha256 is not the one that it was written with: {_AGAIN}")


def _check_legacy(file: BinaryIO) -> None:
    """Check the pickles of a file of torch before 1.6; the tensors follow them."""
    file.seek(0)
    start = file.read(MAX_PICKLE_BYTES)
    stream = io.BytesIO(start)
    for _ in range(_LEGACY_PICKLES):
        if stream.tell() < len(start):
            _check_pickle(stream)
    if not start.startswith(_MAGIC):
        raise UserError(
            "it is a pickle that torch.save did not write: save its tensors with "
            "torch.save(state_dict, FILE)"
        )


def _check_pickle(stream: BinaryIO) -> None:
    """Read a pickle to its end; refuse names that weights do not need, and bombs of tuples."""
    named, reused, tuples, top_is_tuple, num_tuples = set(), 0, set(), False, 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "PROTO" and int(argument or 0) > _MAX_PROTOCOL:
            raise UserError(
                f"it is a pickle of protocol {argument}, which might run code, and torch.save "
                "writes protocol 2: if you trust it, load it where it was written and save it "
                "there with torch.save(state_dict, FILE)"
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
    if refused := sorted(named - _PLAIN - _FOREIGN.keys()):
        raise UserError(
            f"it holds {listed(refused)}, which might run code, and weights need none of it"
        )
    if reused > MAX_REUSED_TUPLES or num_tuples > MAX_TUPLES:
        raise UserError("it nests tuples without end")
