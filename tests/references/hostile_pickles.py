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
    calls: list[tuple[Any, ...]] = [
        ("os", "system", touch),
        ("posix", "system", touch),
        ("os", "mkdir", file),
        ("posix", "mkdir", file),
        ("os", "makedirs", file),
        ("os", "symlink", "/", file),
        ("os", "open", file, 65),
        ("os", "mkfifo", file),
        ("subprocess", "call", words),
        ("subprocess", "check_call", words),
        ("subprocess", "check_output", words),
        ("subprocess", "run", words),
        ("subprocess", "getoutput", touch),
        ("builtins", "eval", code),
        ("builtins", "exec", code),
        ("__builtin__", "eval", code),
        ("builtins", "open", file, "w"),
        ("io", "open", file, "w"),
        ("_io", "FileIO", file, "w"),
        ("codecs", "open", file, "w"),
        ("gzip", "open", file, "wb"),
        ("bz2", "open", file, "wb"),
        ("lzma", "open", file, "wb"),
        ("zipfile", "ZipFile", file, "w"),
        ("tarfile", "open", file, "w"),
        ("sqlite3", "connect", file),
        ("logging", "FileHandler", file),
        ("shutil", "copyfile", __file__, file),
        ("timeit", "timeit", "pass", code),
        ("pickle", "loads", pickle_of(call("os", "mkdir", file))),
        ("_pickle", "loads", pickle_of(call("os", "mkdir", file))),
        ("torch.storage", "_load_from_bytes", legacy_file(call("os", "mkdir", file))),
        ("torch", "save", [1], file),
        ("numpy", "save", f"{file}.npy", [1]),
        ("numpy", "memmap", file, "uint8", "w+", 0, 9),
        ("numpy.testing._private.utils", "runstring", code, {}),
    ]
    return {f"{module}.{name}": call(module, name, *rest) for module, name, *rest in calls}


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


GADGETS = {
    f"{module}.{name}": call(module, name, *arguments)
    for module, name, *arguments in (
        ("torch.hub", "load", "stranger/repository", "model"),
        ("torch", "load", "file.pt"),
        ("torch.serialization", "load", "file.pt"),
        ("torch.jit", "load", "file.pt"),
        ("torch.jit._script", "ScriptModule"),
        ("torch.utils.cpp_extension", "load", "name", ["file.cpp"]),
        ("torch.fx.graph_module", "_forward_from_src", "def forward(): pass", {}),
        ("torch.distributed.rpc.internal", "_run_function", b""),
        ("torch._utils", "_rebuild_device_tensor_from_numpy", [1], "float32", "cpu", False),
        ("torch._utils", "_rebuild_wrapper_subclass", 1),
        ("torch._tensor", "_rebuild_from_type_v2", 1, 2, 3, 4),
        ("torch.storage", "UntypedStorage", 2**50),
        ("torch", "FloatTensor", 2**50),
        ("builtins", "bytearray", 2**40),
        ("_codecs", "encode", "text", "hex"),
        ("codecs", "decode", b"", "zlib"),
        ("numpy", "load", "file.npy", None, True),
        ("numpy.f2py", "compile", "end"),
        ("numpy.f2py.capi_maps", "load_f2cmap_file", "file"),
        ("numpy.core.multiarray", "_reconstruct", 1, [0], b"b"),
        ("numpy._core.multiarray", "scalar", 1, b""),
        ("numpy.lib._npyio_impl", "DataSource"),
        ("webbrowser", "open", "http://localhost"),
        ("pty", "spawn", ["sh"]),
        ("ctypes", "CDLL", "libc.so.6"),
        ("socket", "create_connection", ["localhost", 1]),
        ("urllib.request", "urlopen", "http://localhost"),
        ("runpy", "run_path", "file.py"),
        ("runpy", "run_module", "antigravity"),
        ("marshal", "loads", b""),
        ("types", "CodeType"),
        ("pdb", "run", "pass"),
        ("cProfile", "run", "pass"),
        ("pip", "main", ["install", "stranger"]),
        ("site", "addsitedir", "folder"),
        ("multiprocessing.util", "spawnv_passfds", b"/bin/sh", ["sh"], []),
        ("_posixsubprocess", "fork_exec"),
        ("asyncio.subprocess", "create_subprocess_shell", "true"),
        ("os", "execv", "/bin/true", ["true"]),
        ("os", "kill", 0, 0),
        ("nt", "system", "true"),
        ("sys", "exit", 1),
        ("joblib", "load", "file"),
        ("dill", "loads", b""),
        ("pytorch_lightning.utilities.parsing", "AttributeDict.__init__"),
        ("pytorch_lightning", "Trainer"),
        ("lightning.fabric.utilities.cloud_io", "_load", "file"),
        ("tests.references.hostile_pickles", "live", "canary"),
    )
} | {"an extension": b"\x82\x01", "a persistent name": value("storage") + b"Q"}


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
