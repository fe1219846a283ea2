"""Downloads from a server that misbehaves in all the ways of the internet."""

import errno
import fcntl
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.references.waiting import HANG_S, wait_until
from tests.servers.file_server import Answer, FileServer, file_server
from utils import download
from utils.download import RemoteFile, fetch
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 4000  # about a megabyte
HALF = len(CONTENT) // 2


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(CONTENT) as running:
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record waits instead of waiting; give an address up after three failures."""
    recorded: list[float] = []
    monkeypatch.setattr(download.time, "sleep", recorded.append)
    monkeypatch.setattr(download, "TRIES", 3)
    monkeypatch.setattr(download, "TIMEOUT_S", HANG_S)
    monkeypatch.setattr(download, "LONGEST_WAIT_S", 3300)
    return recorded


def remote(*urls: str, size: int | None = len(CONTENT), content: bytes = CONTENT) -> RemoteFile:
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest()
    return RemoteFile("data.bin", urls, "MIT", size=size, md5=md5, sha256=sha256)


def only_the_file_is_left(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["data.bin"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_the_file_gets_its_name_and_nothing_else_is_left(
    server: FileServer, tmp_path: Path, size: int | None
) -> None:
    path = fetch(remote(server.url, size=size), tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert only_the_file_is_left(path.parent)


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_broken_connection_is_resumed_where_it_was(
    server: FileServer, tmp_path: Path, size: int | None
) -> None:
    server.answers = [Answer(breaks_after=HALF)]
    assert fetch(remote(server.url, size=size), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_silent_connection_is_left_and_resumed_where_it_was(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short time-out is of the silent answer alone; on a slow machine less of it comes."""
    server.answers = [Answer(stalls_after=HALF)]
    with monkeypatch.context() as changed:
        changed.setattr(download, "TRIES", 1)
        changed.setattr(download, "TIMEOUT_S", 0.5)
        with pytest.raises(UserError, match="no answer in time, given up"):
            fetch(remote(server.url), tmp_path)
    partial = tmp_path / ".data.bin.partial"
    have = partial.stat().st_size if partial.exists() else 0
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={have}-" if have else None]


def test_many_breaks_are_survived_as_long_as_there_is_progress(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers = [Answer(breaks_after=len(CONTENT) // 10) for _ in range(9)]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 10


def test_a_server_that_ignores_ranges_sends_everything_again(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers = [Answer(breaks_after=HALF), Answer(ignores_range=True)]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers = [Answer(breaks_after=HALF, ignores_range=True) for _ in range(20)]
    with pytest.raises(UserError, match=r"connection ended .* given up"):
        fetch(remote(server.url), tmp_path)
    assert len(server.ranges) == 3


def test_a_part_from_another_place_is_not_taken_for_the_rest(
    server: FileServer, tmp_path: Path
) -> None:
    wrong = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
    server.answers = [Answer(breaks_after=HALF), Answer(status=206, headers=wrong)]
    with file_server(CONTENT) as mirror:
        path = fetch(remote(server.url, mirror.url), tmp_path)
        assert path.read_bytes() == CONTENT
        assert mirror.ranges == [f"bytes={HALF}-"]


@pytest.mark.parametrize("text", ["", "bytes", "bytes */9", "items 1-2/3", "bytes -1-2/3"])
def test_a_part_that_does_not_say_where_it_belongs_is_refused(
    server: FileServer, tmp_path: Path, text: str
) -> None:
    server.answers = [
        Answer(breaks_after=HALF),
        Answer(status=206, headers={"Content-Range": text}),
    ]
    with pytest.raises(UserError, match="a part of the file without its position"):
        fetch(remote(server.url), tmp_path)
    assert (tmp_path / ".data.bin.partial").read_bytes() == CONTENT[:HALF]


def test_a_part_of_a_file_of_unknown_length_is_known_to_be_cut(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / ".data.bin.partial").write_bytes(CONTENT[:HALF])
    place = {"Content-Range": f"bytes {HALF}-{len(CONTENT) - 1}/*"}
    cut = Answer(206, place, CONTENT[HALF:], breaks_after=1000)
    server.answers = [cut]
    path = fetch(remote(server.url, size=None), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


def test_a_file_that_changes_on_the_server_is_not_mixed(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(content=CONTENT[::-1], breaks_after=HALF)]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_wrong_first_bytes_of_an_earlier_run_cost_one_more_download(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / ".data.bin.partial").write_bytes(b"x" * HALF)
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-", None]


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_partial_that_is_complete_or_too_long_ends_well(
    server: FileServer, tmp_path: Path, size: int | None, extra: bytes
) -> None:
    (tmp_path / ".data.bin.partial").write_bytes(CONTENT + extra)
    path = fetch(remote(server.url, size=size), tmp_path)
    assert path.read_bytes() == CONTENT
    assert only_the_file_is_left(tmp_path)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_later_and_later(
    server: FileServer, tmp_path: Path, waits: list[float], status: int
) -> None:
    server.answers = [Answer(status=status), Answer(status=status)]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert len(waits) == 2
    assert 1 <= waits[0] <= 1.5
    assert 2 <= waits[1] <= 3


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_is_left_alone_for_as_long_as_it_asks(
    server: FileServer, tmp_path: Path, waits: list[float], as_date: bool
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2000), usegmt=True)
    server.answers = [Answer(status=429, headers={"Retry-After": date if as_date else "2000"})]
    fetch(remote(server.url), tmp_path)
    assert 2000 - as_date * HANG_S <= waits[0] <= 3000


def test_a_server_that_asks_for_too_long_a_wait_is_left_for_the_next(
    server: FileServer, tmp_path: Path, waits: list[float]
) -> None:
    server.answers = [Answer(status=503, headers={"Retry-After": "86400"})]
    with file_server(CONTENT) as mirror:
        fetch(remote(server.url, mirror.url), tmp_path)
    assert waits == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_missing_file_is_looked_for_elsewhere_at_once(
    server: FileServer, tmp_path: Path, waits: list[float], status: int
) -> None:
    server.answers = [Answer(status=status)]
    with file_server(CONTENT) as mirror:
        path = fetch(remote(server.url, mirror.url), tmp_path)
    assert path.read_bytes() == CONTENT
    assert waits == []


def test_wrong_bytes_never_get_the_name_and_the_next_address_is_asked(
    server: FileServer, tmp_path: Path
) -> None:
    changed = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    server.answers = [Answer(content=changed)]
    with file_server(CONTENT) as mirror:
        path = fetch(remote(server.url, mirror.url), tmp_path)
        assert path.read_bytes() == CONTENT
        assert mirror.ranges == [None]  # nothing of the wrong bytes was kept


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_every_digest_that_is_given_counts(server: FileServer, tmp_path: Path, kind: str) -> None:
    right = remote(server.url)
    file = replace(right, **{kind: right.digests()[kind][::-1]})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"wrong bytes \({kind} .* start the same command again"):
        fetch(file, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_size_is_noticed_before_anything_is_downloaded(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / ".data.bin.partial").write_bytes(CONTENT[:HALF])
    server.answers = [Answer(content=b"short", ignores_range=True)]
    with pytest.raises(UserError, match=f"a file of 5 bytes instead of {len(CONTENT)}"):
        fetch(remote(server.url), tmp_path)
    assert (tmp_path / ".data.bin.partial").read_bytes() == CONTENT[:HALF]


def test_an_endless_answer_is_left(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(content=CONTENT * 64, without_length=True)]
    with pytest.raises(UserError, match="wrong bytes"):
        fetch(remote(server.url), tmp_path)
    assert server.hung_up.wait(HANG_S)


def test_fewer_bytes_than_are_there_do_not_replace_them(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".data.bin.partial").write_bytes(CONTENT[:HALF])
    server.answers = [Answer(content=b"Welcome", ignores_range=True)]
    with pytest.raises(UserError, match=f"7 bytes, though {HALF} are .* unless you delete"):
        fetch(remote(server.url, size=None), tmp_path)
    assert (tmp_path / ".data.bin.partial").read_bytes() == CONTENT[:HALF]


def test_a_page_of_a_hotel_does_not_replace_what_was_got(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / ".data.bin.partial").write_bytes(CONTENT[:HALF])
    page = {"Content-Type": "text/html; charset=utf-8"}
    server.answers = [Answer(content=b"<p>Welcome", headers=page, ignores_range=True)]
    with pytest.raises(UserError, match="a web page instead of the file"):
        fetch(remote(server.url, size=None), tmp_path)
    assert (tmp_path / ".data.bin.partial").read_bytes() == CONTENT[:HALF]


def test_redirects_are_followed_with_the_range(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".data.bin.partial").write_bytes(CONTENT[:HALF])
    server.answers = [Answer(status=302, headers={"Location": "/elsewhere"})]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.paths == ["/file", "/elsewhere"]
    assert server.ranges == [f"bytes={HALF}-"] * 2


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher"])
def test_redirects_away_from_the_web_are_refused(
    server: FileServer, tmp_path: Path, scheme: str
) -> None:
    server.answers = [Answer(status=302, headers={"Location": f"{scheme}://localhost/etc/passwd"})]
    with pytest.raises(UserError, match="a redirect to another protocol"):
        fetch(remote(server.url), tmp_path)


def test_an_address_where_nobody_answers_is_named_at_the_end(tmp_path: Path) -> None:
    with file_server(CONTENT) as gone:
        url = gone.url
    with pytest.raises(UserError, match=r"data\.bin could not be .*127\.0\.0\.1: .*refused"):
        fetch(remote(url), tmp_path)


def test_a_verified_file_is_not_downloaded_again(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT)
    fetch(remote(server.url), tmp_path)
    assert server.ranges == []
    assert "exists already, verified" in capsys.readouterr().out


def test_another_file_of_the_name_is_never_overwritten(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"data\.bin is another file .*move it away"):
        fetch(remote(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"mine"
    assert server.ranges == []


def test_a_disk_too_small_is_told_before_the_download(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0\.0 GB free, but 0\.0 GB are still missing"):
        fetch(remote(server.url), tmp_path)


def test_a_disk_that_fills_up_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".data.bin.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match="partial: No space left on device: free some space"):
        fetch(remote(server.url), tmp_path)


DOWNLOAD = """
import signal, sys
from pathlib import Path
from utils import download
from utils.download import RemoteFile, fetch
url, size, md5, folder = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # as utils.cli does
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
file = download.RemoteFile("data.bin", (url,), "MIT", size=int(size), md5=md5)
download.TIMEOUT_S = 1e4
download.fetch(file, Path(folder))
"""


def start(url: str, folder: Path) -> "subprocess.Popen[str]":
    md5 = hashlib.md5(CONTENT).hexdigest()
    arguments = [sys.executable, "-c", DOWNLOAD, url, str(len(CONTENT)), md5, str(folder)]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for_bytes(partial: Path, count: int) -> None:
    wait_until(lambda: partial.exists() and partial.stat().st_size >= count)


@pytest.mark.parametrize(
    ("number", "chunks"), [(signal.SIGKILL, 1), (signal.SIGTERM, 5), (signal.SIGINT, 5)]
)
@pytest.mark.difference("downloads")
def test_a_killed_process_is_resumed_to_the_same_bytes(
    server: FileServer, tmp_path: Path, number: signal.Signals, chunks: int
) -> None:
    count = chunks * 2**16  # less than one chunk is lost
    server.answers = [Answer(stalls_after=count + 100)]
    process = start(server.url, tmp_path)
    partial = tmp_path / ".data.bin.partial"
    wait_for_bytes(partial, count)
    process.send_signal(number)
    process.communicate()
    expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: -2}
    assert process.returncode == expected[number]
    assert partial.read_bytes() == CONTENT[:count]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={count}-"]
    assert only_the_file_is_left(tmp_path)


def test_a_file_system_without_locks_can_be_downloaded_to(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    fetch(remote(server.url), tmp_path)
    assert only_the_file_is_left(tmp_path)


def test_two_that_want_the_same_file_download_it_once(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stalls_after=HALF)]
    first = start(server.url, tmp_path)
    wait_for_bytes(tmp_path / ".data.bin.partial", HALF // 2)
    results: list[Path] = []
    second = threading.Thread(target=lambda: results.append(fetch(remote(server.url), tmp_path)))
    second.start()
    server.stop_stalling.set()  # the connection breaks off, the first one resumes it
    second.join()
    assert first.communicate()[1] is not None
    assert first.returncode == 0
    assert results[0].read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert only_the_file_is_left(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"md5": "0" * 64},
        {"sha256": "0" * 32},
        {"sha256": "G" * 64},
        {},
        {"md5": "0" * 32, "name": "../x"},
        {"md5": "0" * 32, "urls": ()},
        {"md5": "0" * 32, "urls": ("ftp://x/y",)},
    ],
)
def test_slips_in_a_table_are_found_without_a_download(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"is not a|are needed|start with http"):
        RemoteFile(**({"name": "x", "urls": ("https://x/y",), "licence": "MIT"} | fields))  # type: ignore
