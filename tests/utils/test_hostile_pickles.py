"""Nothing in a checkpoint runs: hostile pickles are refused in one sentence, in every format."""

import io
import pickle
import random
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.backbones import load_encoder
from tests.references.hostile_pickles import (
    GADGETS,
    MAGIC_NUMBER,
    checkpoint_of,
    files,
    legacy_file,
    live,
    named,
    pickle_of,
    value,
    zip_file,
)
from tests.references.tar_files import info
from utils import torch_files
from utils.errors import UserError
from utils.torch_files import Inert, read_torch_file

STATE = value({"items": 1})
LIVE = tuple(live(Path("canary")))
assert len(LIVE) >= 50
assert len({*LIVE, *GADGETS}) == len(LIVE) + len(GADGETS) >= 100


def refused(path: Path, content: bytes) -> str:
    """Return the sentence with which a file is refused, by the reader and by the loader."""
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_torch_file(path)
    with pytest.raises(UserError):
        load_encoder("pretrain", None, path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert path.name in text
    assert "weights_only" not in text
    return text


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.difference("encoder-code")
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, name: str) -> None:
    nest = tmp_path / "nest"
    nest.mkdir()
    instructions = live(nest / "canary")[name]
    for file, content in files(instructions).items():
        assert "might run code" in refused(tmp_path / file, content)
        assert not any(nest.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pickle.loads(pickle_of(instructions))  # the control: it does work
    assert any(nest.iterdir())


@pytest.mark.parametrize("name", GADGETS)
def test_a_known_gadget_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    for file, content in files(GADGETS[name]).items():
        text = refused(tmp_path / file, content)
        assert name in text or name.startswith(("an ", "a "))


def test_a_name_neither_controls_the_terminal_nor_fills_it(tmp_path: Path) -> None:
    for file, content in files(named("os", "\x1b[2J" + "x" * 10**5)).items():
        text = refused(tmp_path / file, content)
        assert text.isprintable()
        assert len(text) < 500


@pytest.mark.parametrize(
    "instructions",
    [
        named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") + b"}b",
        named("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81" + STATE + b"b",
        named("collections", "OrderedDict") + b")R" + value([1, 2]) + b"b",
        named("collections", "Counter") + value((5,)) + b"R",
        named("torch", "FloatStorage") + b")R",
        named("torch", "FloatStorage") + b")\x81",
        named("torch._utils", "_rebuild_tensor_v2") + b")R",
        named("torch._utils", "_rebuild_parameter") + value((1, 2, 3)) + b"R",
        value("text") + b")R",
        b"]" + value(1) + b"s",
        b"h\x07",
        b"}]Ns",
        value(("module", 1, 2, 3)) + b"Q",
        value(("storage", 1, "0", "cpu", 1)) + b"Q",
        b"(" + value("storage") + named("torch", "FloatStorage") + value("0") + value("cpu")
        + value(2**40) + b"tQ",
    ],
)  # fmt: skip
def test_allowed_names_cannot_be_turned_against_us(tmp_path: Path, instructions: bytes) -> None:
    for file, content in files(instructions).items():
        refused(tmp_path / file, content)


def test_a_stub_does_nothing_with_what_it_is_given(tmp_path: Path) -> None:
    name = named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    state = value({"__class__": 1})
    for number, instructions in enumerate(
        (name, name + value((1, 2)) + b"R", name + b")\x81" + state + b"b")
    ):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(zip_file(checkpoint_of(instructions)))
        stub = read_torch_file(path)["state_dict"]
        assert stub is Inert or type(stub) is Inert


def stored(path: Path, *entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that is there already
        for name, content in entries:
            archive.writestr(name, content)


def overlapping(path: Path) -> None:
    """One megabyte that is listed a hundred times."""
    stored(path, ("a/data.pkl", b"N."), *((f"a/data/{i}", bytes(0)) for i in range(100)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/x", bytes(2**20))
        whole = archive.getinfo("a/data/x")
        for entry in archive.infolist()[1:-1]:
            entry.header_offset, entry.CRC = whole.header_offset, whole.CRC
            entry.file_size = entry.compress_size = whole.file_size


def tar(path: Path) -> None:
    """Torch before 0.1.10."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(info(name), io.BytesIO(b"cos\n"))


def tensor_beyond_its_storage(path: Path) -> None:
    torch.save({"state_dict": {"x": torch.arange(4.0)}}, path)
    content = path.read_bytes()
    assert content.count(b"K\x04\x85") == 1  # its shape
    path.write_bytes(content.replace(b"K\x04\x85", b"K\xff\x85"))


ODD, UNREADABLE, ENDLESS = "its zip is not one", "not a readable checkpoint", "nests tuples without"
NONE = ("a/data.pkl", b"N.")
HOSTILE = checkpoint_of(named("os", "system"))
LARGE = torch_files.MAX_PICKLE_BYTES
# Tuples that each hold the one before twice: to hash the last takes years.
DOUBLED = b"".join(b"\x86q%c" % i + b"h%c" % i for i in range(60))
DEEP = b"\x85" * 150_000  # a key of tuples in tuples ended the interpreter with SIGSEGV
PETABYTE = b"(" + value("storage") + named("torch", "FloatStorage") + value("0") + value("cpu")
PETABYTE += value(2**48) + b"NtQ"
CODE = (NONE, ("a/constants.pkl", b"N."), ("a/code/x.py", b"pass"))  # of torch.jit.save


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda x: stored(x, NONE, ("a/data/0", bytes(2**24)), compression=8), ODD),  # a bomb
        (overlapping, ODD),
        (lambda x: stored(x, NONE, ("b/data.pkl", b"}.")), ODD),  # one to look at, one to read
        (lambda x: stored(x, NONE, ("a/data.pkl", b"}.")), ODD),
        (lambda x: stored(x, NONE, ("A/DATA.PKL", b"}.")), ODD),  # torch looks for any case
        (lambda x: stored(x, ("a/DATA.PKL", b"N.")), "zip without data.pkl"),
        (lambda x: stored(x, ("a/y/data.pkl", b"N.")), "zip without data.pkl"),
        (lambda x: stored(x, ("a/y/data.pkl", b"N."), ("a/data.pkl", HOSTILE)), "might run code"),
        (lambda x: stored(x, ("a/data.pkl", bytes(LARGE + 1))), ODD),
        (lambda x: stored(x, *CODE), "a TorchScript archive, which is code"),
        (lambda x: stored(x, ("a/other", b"")), "zip without data.pkl"),
        (lambda x: x.write_bytes(zip_file(b"\x80\x02}NN" + DOUBLED + b"\x86Ns.")), ENDLESS),
        # A key of tuples in tuples ended the interpreter with SIGSEGV.
        (
            lambda x: x.write_bytes(zip_file(b"\x80\x02}K\1" + b"\x85" * 150_000 + b"K\1s.")),
            ENDLESS,
        ),
        (tensor_beyond_its_storage, UNREADABLE),
        (tar, UNREADABLE),
        (lambda x: x.write_bytes(legacy_file(value("x" * LARGE))), UNREADABLE),
        (lambda x: x.write_bytes(legacy_file(PETABYTE)), UNREADABLE),
        (lambda x: x.write_bytes(b"PK\3\4"), "not a readable checkpoint: .* download or copy it"),
        (lambda x: x.write_bytes(pickle.dumps(MAGIC_NUMBER, 2)), UNREADABLE),
        (lambda x: x.write_bytes(pickle.dumps([1], 2)), UNREADABLE),
    ],
)
def test_bombs_and_forgeries_are_refused(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message) as caught:
        load_encoder("pretrain", None, tmp_path / "x.ckpt")
    assert len(str(caught.value).splitlines()) == 1
    assert "weights_only" not in str(caught.value)


def test_deep_nesting_neither_crashes_nor_is_printed(tmp_path: Path) -> None:
    deep = b"]" * 100_000 + b"a" * 99_999
    refused_by = {"base_encoder": deep, "input_spec": deep}
    for name, instructions in refused_by.items():
        path = tmp_path / f"{name}.ckpt"
        hparams = b"}" + value(name) + instructions + b"s"
        state = b"}" + value("encoder_q.0.weight") + b"Ns"
        pairs = value("state_dict") + state + b"s" + value("hyper_parameters") + hparams + b"s"
        path.write_bytes(zip_file(b"\x80\x02}" + pairs + b"."))
        with pytest.raises(UserError) as caught:
            load_encoder("pretrain", None, path)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("as_zip", [True, False])
def test_damage_is_refused_or_harmless(tmp_path: Path, as_zip: bool) -> None:
    """Bytes are changed, lost or added at random: no other error, no hang, no crash."""
    path, generator = tmp_path / "x.ckpt", random.Random(0)
    content = {"state_dict": {"a": torch.arange(4.0)}, "hyper_parameters": {"b": Counter("aab")}}
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    whole, refusals = path.read_bytes(), []
    for _ in range(300):
        damaged = bytearray(whole)
        place = generator.randrange(len(damaged))
        damaged[place : place + generator.randrange(3)] = generator.randbytes(
            generator.randrange(3)
        )
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 150
    assert all(text.isprintable() for text in refusals)
