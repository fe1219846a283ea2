"""The two tables of downloads, and what their scripts do with them."""

import gzip
import hashlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import datasets.download
from tests.references.tar_files import tar_of
from tests.servers.file_server import Answer, FileServer, file_server
from utils.collection import Collection, download
from utils.download import RemoteFile
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = importlib.import_module("checkpoints.download")
SCRIPTS = [datasets.download, WEIGHTS]
PIECES = ("x.tar.gzaa", "x.tar.gzab")


@pytest.fixture(scope="module")
def servers() -> Iterator[list[FileServer]]:
    whole = gzip.compress(tar_of([("top/a.tif", b"1" * 700), ("top/b.tif", b"2")]))
    with file_server(whole[:60]) as first, file_server(whole[60:]) as second:
        yield [first, second]


def collection(servers: list[FileServer]) -> Collection:
    files = tuple(
        RemoteFile(name, (server.url,), "MIT", md5=hashlib.md5(server.content).hexdigest())
        for name, server in zip(PIECES, servers, strict=True)
    )
    return Collection("a split archive", "1 KB", files, {"x": PIECES}, "a word besides")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_file_has_a_plain_name_a_digest_and_addresses_of_the_web(script: ModuleType) -> None:
    """And no archive is unpacked whose checksum is not known."""
    for entry in script.COLLECTIONS.values():
        names = [file.name for file in entry.files]
        assert len(set(names)) == len(names)
        assert {part for parts in entry.unpack.values() for part in parts} <= set(names)
        for file in entry.files:
            assert file.name == Path(file.name).name
            assert file.urls
            assert all(re.fullmatch(r"https://[!-~]+", url) for url in file.urls)
            assert file.digests()
            assert re.fullmatch("[0-9a-f]{32}", file.md5 or "0" * 32)
            assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "0" * 64)


def test_the_promised_data_sets_and_weights_are_there() -> None:
    assert list(datasets.download.COLLECTIONS) == [
        *("seco_100k", "seco_1m", "eurosat_rgb", "eurosat_13"),
        *("bigearthnet_v1", "bigearthnet_v2", "oscd"),
    ]
    assert [entry.files[0].name for entry in WEIGHTS.COLLECTIONS.values()] == [
        *("seco_resnet18_100k.ckpt", "seco_resnet18_1m.ckpt"),
        *("seco_resnet50_100k.ckpt", "seco_resnet50_1m.ckpt"),
    ]


def test_real_files_of_the_tables_are_those_at_hand() -> None:
    """Two lists and v2's metadata are stored next to the project where its developers work."""
    folder = ROOT.parent / "shared" / "data" / "bigearthnet_metadata"
    if not folder.exists():
        pytest.skip("no real data at hand")
    files = [file for entry in datasets.download.COLLECTIONS.values() for file in entry.files]
    at_hand = [file for file in files if (folder / file.name).exists()]
    assert len(at_hand) == 3
    assert all(file.defect(folder / file.name) is None for file in at_hand)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_list_shows_names_sizes_and_licences(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    for line, (name, entry) in zip(lines, script.COLLECTIONS.items(), strict=True):
        assert line.startswith(name)
        assert entry.size in line
        assert all(file.licence in line for file in entry.files)


def test_pieces_are_fetched_joined_and_unpacked_once(
    servers: list[FileServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(collection(servers), tmp_path)
    said = capsys.readouterr().out
    assert "x.tar.gzaa x.tar.gzab may be deleted now" in said
    assert said.endswith("a word besides\n")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["a.tif", "b.tif"]
    for piece in PIECES:
        (tmp_path / piece).unlink()
    requests = [len(server.ranges) for server in servers]
    download(collection(servers), tmp_path)  # needs no archive any more
    assert "exists already, unpacked" in capsys.readouterr().out
    assert [len(server.ranges) for server in servers] == requests


def test_nothing_is_unpacked_when_a_piece_is_missing(
    servers: list[FileServer], tmp_path: Path
) -> None:
    servers[1].answers = [Answer(status=404)]
    with pytest.raises(UserError, match=r"x\.tar\.gzab could not be downloaded"):
        download(collection(servers), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gzaa"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("checkpoints/download.py", 2, "error: give a name"),
        ("datasets/download.py oscd --save_path /proc/x", 2, "error: /proc/x: No such file"),
        ("datasets/download.py --list", 141, "stopped: the reader of the output"),
    ],
)
def test_the_scripts_start_from_anywhere_and_end_in_one_sentence(
    flags: str, code: int, message: str, tmp_path: Path
) -> None:
    """The last one prints into a pipe that nobody reads, as of ``head``."""
    script, *rest = flags.split()
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(ROOT / script), *rest]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert message in done.stderr


@pytest.mark.parametrize(
    "argv", [["eurosat_rgb"], ["--save_path", "x"], ["unknown", "--save_path", "x"]]
)
def test_incomplete_commands_are_refused(argv: list[str]) -> None:
    with pytest.raises(UserError, match=r"--save_path|unknown"):
        datasets.download.main(argv)


def test_weights_go_next_to_their_description(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("utils.collection.download", lambda *what: asked.append(what))
    WEIGHTS.main(["seco_resnet18_1m"])
    assert asked == [(WEIGHTS.COLLECTIONS["seco_resnet18_1m"], ROOT / "checkpoints")]
