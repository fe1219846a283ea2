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
SIZE, HALF = len(CONTENT), len(CONTENT) // 2
REST = f"bytes={HALF}-"
PARTIAL = ".data.bin.partial"


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


def remote(*urls: str, size: int | None = SIZE) -> RemoteFile:
    sha256, md5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
    return RemoteFile("data.bin", urls, "MIT", size=size, md5=md5, sha256=sha256)


def part(start: int, total: object = SIZE, **settings: object) -> Answer:
    """Answer with a part of the file from ``start`` on."""
    place = {"Content-Range": f"bytes {start}-{SIZE - 1}/{total}"}
    return Answer(206, place, CONTENT[start:], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [SIZE, None], ids=["known size", "unknown size"])
@pytest.mark.parametrize(
    ("answers", "have", "ranges"),
    [
        ([], b"", [None]),
        ([Answer(headers={"Content-Length": "9" * 5000})], b"", [None]),
        ([Answer(breaks_after=HALF)], b"", [None, REST]),
        ([Answer(breaks_after=HALF), Answer(ignores_range=True)], b"", [None, REST]),
        ([Answer(breaks_after=SIZE // 10) for _ in range(9)], b"", 10),  # progress each time
        ([part(HALF, "*", breaks_after=9)], CONTENT[:HALF], [REST, f"bytes={HALF + 9}-"]),
        ([Answer(302, {"Location": "/elsewhere"})], CONTENT[:HALF], [REST, REST]),
        ([], CONTENT, {SIZE: [], None: [f"bytes={SIZE}-"]}),
    ],
    ids=["good", "length", "broken", "no ranges", "slow", "no total", "redirect", "complete"],
)
def test_the_file_is_completed(
    server: FileServer, tmp_path: Path, answers: list[Answer], have: bytes, ranges: object,
    size: int | None,
) -> None:  # fmt: skip
    server.answers = list(answers)
    if have:
        (tmp_path / PARTIAL).write_bytes(have)
    assert fetch(remote(server.url, size=size), tmp_path).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
    expected = ranges[size] if isinstance(ranges, dict) else ranges
    assert server.ranges == expected or len(server.ranges) == expected


PAGE = {"Content-Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("answer", "size", "message"),
    [
        (part(0), SIZE, f"not the part of the file from byte {HALF} on"),
        *(
            (Answer(206, {"Content-Range": text}), SIZE, "not the part of the file")
            for text in ("", "bytes", "bytes */9", "items 1-2/3", f"bytes {'9' * 5000}-2/3")
        ),
        (Answer(content=b"short", ignores_range=True), SIZE, "a file of 5 bytes instead of 1024"),
        (Answer(content=b"short", ignores_range=True), None, f"5 bytes, though {HALF} are"),
        (Answer(None, PAGE, b"<p>Welcome", ignores_range=True), None, "a web page instead"),
        *(
            (Answer(302, {"Location": where}), SIZE, "a redirect to what is not an address")
            for where in ("ftp://localhost/etc/passwd", "file:///etc/passwd", "http://[")
        ),
        *((Answer(status), SIZE, f"HTTP {status}") for status in (401, 403, 404, 410)),
        (Answer(503, {"Retry-After": "86400"}), SIZE, "HTTP 503.* given up"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_continue_is_left_for_the_next_and_nothing_is_lost(
    server: FileServer, tmp_path: Path, waits: list[float], answer: Answer, size: int | None,
    message: str,
) -> None:  # fmt: skip
    (tmp_path / PARTIAL).write_bytes(CONTENT[:HALF])
    server.answers = [answer, answer]
    with pytest.raises(UserError, match=f"{message}.* start the same command .*unless you delete"):
        fetch(remote(server.url, size=size), tmp_path)
    assert (tmp_path / PARTIAL).read_bytes() == CONTENT[:HALF]
    assert waits == []
    with file_server(CONTENT) as mirror:
        path = fetch(remote(server.url, mirror.url, size=size), tmp_path)
        assert path.read_bytes() == CONTENT
        assert mirror.ranges == [REST]


def test_a_silent_connection_is_left_and_resumed_where_it_was(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short time-out is of the silent answer alone; on a slow machine less of it comes."""
    server.answers = [Answer(stalls_after=HALF)]
    with monkeypatch.context() as changed:
        changed.setattr(download, "TRIES", 1)
        changed.setattr(download, "TIMEOUT_S", 0.5)
        with pytest.raises(UserError, match="timed out, given up"):
            fetch(remote(server.url), tmp_path)
    partial = tmp_path / PARTIAL
    have = partial.stat().st_size if partial.exists() else 0
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={have}-" if have else None]


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers = [Answer(breaks_after=HALF, ignores_range=True) for _ in range(20)]
    with pytest.raises(UserError, match=r"given up"):
        fetch(remote(server.url), tmp_path)
    assert len(server.ranges) == 3


@pytest.mark.parametrize("have", [b"x" * HALF, CONTENT + b"more"], ids=["wrong", "too long"])
@pytest.mark.parametrize("size", [SIZE, None])
def test_wrong_bytes_of_an_earlier_run_are_deleted(
    server: FileServer, tmp_path: Path, size: int | None, have: bytes
) -> None:
    (tmp_path / PARTIAL).write_bytes(have)
    with file_server(CONTENT) as mirror:
        path = fetch(remote(server.url, mirror.url, size=size), tmp_path)
        assert mirror.ranges == [None]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "answer",
    [Answer(content=b"x" + CONTENT[1:]), Answer(content=CONTENT * 64, without_length=True)],
    ids=["changed", "endless"],
)
def test_wrong_bytes_never_get_the_name_and_the_next_address_is_tried(
    server: FileServer, tmp_path: Path, answer: Answer
) -> None:
    server.answers = [answer]
    with file_server(CONTENT) as mirror:
        path = fetch(remote(server.url, mirror.url), tmp_path)
        assert mirror.ranges == [None]
    assert path.read_bytes() == CONTENT
    assert not answer.without_length or server.hung_up.wait(HANG_S)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_every_digest_that_is_given_counts(server: FileServer, tmp_path: Path, kind: str) -> None:
    right = remote(server.url)
    file = replace(right, **{kind: right.digests()[kind][::-1]})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"wrong bytes \({kind} .* start the same command again"):
        fetch(file, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_later_and_later(
    server: FileServer, tmp_path: Path, waits: list[float], status: int
) -> None:
    server.answers = [Answer(status), Answer(status)]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    first, second = waits
    assert 1 <= first <= 1.5
    assert 2 <= second <= 3


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_is_left_alone_for_as_long_as_it_asks(
    server: FileServer, tmp_path: Path, waits: list[float], as_date: bool
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2000), usegmt=True)
    server.answers = [Answer(429, {"Retry-After": date if as_date else "2000"})]
    fetch(remote(server.url), tmp_path)
    assert 2000 - as_date * HANG_S <= waits[0] <= 3000


def test_an_address_where_nobody_answers_is_named_at_the_end(tmp_path: Path) -> None:
    with file_server(CONTENT) as gone:
        url = gone.url
    with pytest.raises(UserError, match=r"data\.bin could not be .*127\.0\.0\.1: .*refused"):
        fetch(remote(url), tmp_path)


def test_a_file_of_the_name_is_verified_and_never_overwritten(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT)
    fetch(remote(server.url), tmp_path)
    assert "exists already, verified" in capsys.readouterr().out
    (tmp_path / "data.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"data\.bin is another file .*move it away"):
        fetch(remote(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"mine"
    assert server.ranges == []


def test_a_disk_too_small_is_named_before_the_download(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0\.0 GB free, but 0\.0 GB are needed"):
        fetch(remote(server.url), tmp_path)


def test_a_disk_that_fills_up_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / PARTIAL).symlink_to("/dev/full")
    with pytest.raises(UserError, match="partial: No space left on device: free some space"):
        fetch(remote(server.url), tmp_path)


DOWNLOAD = """
import signal, sys
from pathlib import Path
from utils import download
url, size, md5, folder = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # as utils.cli does
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
file = download.RemoteFile("data.bin", (url,), "MIT", size=int(size), md5=md5)
download.TIMEOUT_S = 1e4
download.fetch(file, Path(folder))
"""


def start(url: str, folder: Path, have: int) -> "subprocess.Popen[str]":
    """Start a download, and return when it has this many bytes."""
    md5 = hashlib.md5(CONTENT).hexdigest()
    arguments = [sys.executable, "-c", DOWNLOAD, url, str(SIZE), md5, str(folder)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    partial = folder / PARTIAL
    wait_until(lambda: partial.exists() and partial.stat().st_size >= have)
    return process


@pytest.mark.parametrize(
    ("number", "chunks", "code"),
    [(signal.SIGKILL, 1, -9), (signal.SIGTERM, 5, 143), (signal.SIGINT, 5, -2)],
)
@pytest.mark.difference("downloads")
def test_a_killed_process_is_resumed_to_the_same_bytes(
    server: FileServer, tmp_path: Path, number: signal.Signals, chunks: int, code: int
) -> None:
    count = chunks * 2**16  # less than one chunk is lost
    server.answers = [Answer(stalls_after=count + 100)]
    process = start(server.url, tmp_path, count)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code
    assert (tmp_path / PARTIAL).read_bytes() == CONTENT[:count]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={count}-"]
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_two_that_want_the_same_file_download_it_once(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stalls_after=HALF)]
    first = start(server.url, tmp_path, HALF // 2)
    results: list[Path] = []
    second = threading.Thread(target=lambda: results.append(fetch(remote(server.url), tmp_path)))
    second.start()
    server.stop_stalling.set()  # the connection breaks off, the first one resumes it
    second.join()
    first.communicate()
    assert first.returncode == 0
    assert results[0].read_bytes() == CONTENT
    assert server.ranges == [None, REST]


def test_a_file_system_without_locks_can_be_downloaded_to(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    fetch(remote(server.url), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
