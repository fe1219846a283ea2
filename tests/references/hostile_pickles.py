"""Pickles that create a file when they are opened, each by another way, and the files they are in.

``pickle.loads`` runs those of ``live``: the control of the tests, for what is refused must be known
to work. Those of ``GADGETS`` are known from attacks too, but need a network, a terminal or a
package that is not here.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # of torch's format before 1.6


def value(item: Any) -> bytes:
    """Return the instructions that build a plain value, without protocol and stop."""
    return pickle.dumps(item, 2)[2:-1]


def short(text: str) -> bytes:
    """Return the string of protocol 4."""
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


def named(module: str, attribute: str) -> bytes:
    """Return the instruction that looks a global up."""
    return f"c{module}\n{attribute}\n".encode()


def apply(function: bytes, *arguments: bytes) -> bytes:
    """Return the instructions of a call."""
    return function + b"(" + b"".join(arguments) + b"tR"


def call(module: str, attribute: str, *arguments: Any) -> bytes:
    """Return the instructions of a call of a global with plain arguments."""
    return apply(named(module, attribute), *map(value, arguments))


def attribute(item: bytes, text: str) -> bytes:
    """Return the instructions of ``getattr``."""
    return apply(named("builtins", "getattr"), item, value(text))


def direct_calls(file: str) -> dict[str, bytes]:
    """Name calls of one global that create ``file`` or run a text that does."""
    touch, code, words = f"touch {file}", f"open({file!r}, 'w').close()", ["touch", file]
    nested = pickle_of(call("os", "mkdir", file))
    calls: list[tuple[Any, ...]] = [
        ("os:system posix:system subprocess:getoutput", touch),
        ("os:mkdir posix:mkdir os:makedirs os:mkfifo sqlite3:connect logging:FileHandler", file),
        ("subprocess:call subprocess:check_call subprocess:check_output subprocess:run", words),
        ("builtins:eval builtins:exec __builtin__:eval", code),
        ("builtins:open io:open _io:FileIO codecs:open zipfile:ZipFile tarfile:open", file, "w"),
        ("gzip:open bz2:open lzma:open", file, "wb"),
        ("os:symlink", "/", file),
        ("os:open", file, 65),
        ("shutil:copyfile", __file__, file),
        ("timeit:timeit", "pass", code),
        ("pickle:loads _pickle:loads", nested),
        ("torch.storage:_load_from_bytes", legacy_file(call("os", "mkdir", file))),
        ("torch:save", [1], file),
        ("numpy:save", f"{file}.npy", [1]),
        ("numpy:memmap", file, "uint8", "w+", 0, 9),
        ("numpy.testing._private.utils:runstring", code, {}),
    ]
    return {
        name.replace(":", "."): call(*name.split(":"), *arguments)
        for names, *arguments in calls
        for name in names.split()
    }


def indirect_calls(file: str) -> dict[str, bytes]:
    """Name chains, objects and instructions of pickle itself that create ``file``."""
    touch, imported = f"touch {file}", call("builtins", "__import__", "os")
    system, mkdir = named("os", "system"), named("os", "mkdir")
    path = call("pathlib", "PosixPath", file)
    partial = apply(named("functools", "partial"), mkdir, value(file))
    everything = named("builtins", "list")
    return {
        "getattr of __import__": apply(attribute(imported, "system"), value(touch)),
        "getattr of import_module": apply(
            attribute(call("importlib", "import_module", "os"), "system"), value(touch)
        ),
        "attrgetter": apply(
            apply(call("operator", "attrgetter", "system"), imported), value(touch)
        ),
        "methodcaller": apply(call("operator", "methodcaller", "system", touch), imported),
        "partial": apply(partial),
        "reduce": apply(named("functools", "reduce"), mkdir, value([file, 0o700])),
        "map": apply(everything, apply(named("builtins", "map"), system, value([touch]))),
        "filter": apply(everything, apply(named("builtins", "filter"), system, value([touch]))),
        "starmap": apply(
            everything, apply(named("itertools", "starmap"), system, value([(touch,)]))
        ),
        "method of an object": apply(attribute(path, "touch")),
        "method of an array": apply(
            attribute(call("numpy", "arange", 3), "tofile"), value(file)
        ),
        "state of a partial": apply(
            named("functools", "partial") + b"(" + named("builtins", "print") + b"tR("
            + mkdir + value((file,)) + b"}Ntb"
        ),
        "dict subclass": apply(
            attribute(apply(named("collections", "defaultdict"), partial), "__missing__"),
            value("key"),
        ),
        "thread pool": apply(
            attribute(call("multiprocessing.pool", "ThreadPool", 1), "map"), mkdir, value([file])
        ),
        "INST": b"(S" + repr(touch).encode() + b"\nios\nsystem\n",
        "OBJ": b"(" + system + value(touch) + b"o",
        "NEWOBJ": named("zipfile", "ZipFile") + b")\x81" + call("os", "mkdir", file),
        "NEWOBJ_EX": named("zipfile", "ZipFile") + b")}\x92" + call("os", "mkdir", file),
        "STACK_GLOBAL": short("os") + short("system") + b"\x93" + value((touch,)) + b"R",
        "as a key": b"}" + call("os", "mkdir", file) + b"Ns",
        "thrown away": call("os", "mkdir", file) + b"0N",
        "within an allowed name": named("collections", "OrderedDict")
        + b"(" + call("os", "mkdir", file) + b"0tR",
    }  # fmt: skip


def live(canary: Path) -> dict[str, bytes]:
    """Name all pickles, without protocol and stop, that create ``canary``, a path of < 200 bytes.

    The one of ``numpy.save`` appends an ending to it.
    """
    return direct_calls(str(canary)) | indirect_calls(str(canary))


# Arguments do not matter: they are refused by their names.
_NAMES = """
torch.hub:load torch:load torch.serialization:load torch.jit:load torch.jit._script:ScriptModule
torch.utils.cpp_extension:load torch.fx.graph_module:_forward_from_src torch:FloatTensor
torch.distributed.rpc.internal:_run_function torch._utils:_rebuild_device_tensor_from_numpy
torch._utils:_rebuild_wrapper_subclass torch._tensor:_rebuild_from_type_v2
torch.storage:UntypedStorage builtins:bytearray _codecs:encode codecs:decode numpy:load
numpy.f2py:compile numpy.f2py.capi_maps:load_f2cmap_file numpy.core.multiarray:_reconstruct
numpy._core.multiarray:scalar numpy.lib._npyio_impl:DataSource webbrowser:open pty:spawn
ctypes:CDLL socket:create_connection urllib.request:urlopen runpy:run_path runpy:run_module
marshal:loads types:CodeType pdb:run cProfile:run pip:main site:addsitedir
multiprocessing.util:spawnv_passfds _posixsubprocess:fork_exec os:execv os:kill nt:system sys:exit
asyncio.subprocess:create_subprocess_shell joblib:load dill:loads pytorch_lightning:Trainer
pytorch_lightning.utilities.parsing:AttributeDict.__init__ lightning.fabric.utilities.cloud_io:_load
tests.references.hostile_pickles:live
"""
GADGETS = {name.replace(":", "."): call(*name.split(":"), 2**50) for name in _NAMES.split()}
GADGETS |= {"an extension": b"\x82\x01", "a persistent name": value("storage") + b"Q"}


def pickle_of(instructions: bytes) -> bytes:
    """Return a whole pickle."""
    return b"\x80\x02" + instructions + b"."


def checkpoint_of(instructions: bytes) -> bytes:
    """Return a pickle of a dict whose state_dict is what the instructions leave."""
    return b"\x80\x02}" + value("state_dict") + instructions + b"s."


def zip_file(pickled: bytes) -> bytes:
    """Return a file of torch 1.6 and later."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def legacy_file(instructions: bytes) -> bytes:
    """Return a file of torch before 1.6, whose content is what the instructions leave."""
    machine = {"protocol_version": 1001, "little_endian": True}
    head = [pickle.dumps(item, 2) for item in (MAGIC_NUMBER, 1001, machine)]
    return b"".join(head) + b"\x80\x02" + instructions + b"." + pickle.dumps([], 2)


def files(instructions: bytes) -> dict[str, bytes]:
    """Put the instructions into a file of each format, by its name."""
    content = checkpoint_of(instructions)
    return {
        "zip.ckpt": zip_file(content),
        "legacy.ckpt": legacy_file(content[2:-1]),
        "bare.ckpt": content,
        "first.ckpt": b"\x80\x02" + instructions + b"." + legacy_file(b"}"),
    }
