"""The journal of a collection: what a killed process, a full disk or a stranger leave of it."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datasets.collect.journal import Journal, Record, discard_journals, forget, read_journals
from tests.references.waiting import HANG_S
from utils.errors import UserError

PLAN = "p" * 64
DONE = Record(
    3,
    "done",
    scenes=("20200101T101010_T32UQD",),
    num_bytes=7,
    sha256="ab",
    passed_over=("20200102T101010_T32UQD: HTTP 404",),
)
CLOUDY = Record(3, "cloudy", "17 clouds")
FORK = multiprocessing.get_context("fork")


def note(folder: Path, *records: Record, shard: tuple[int, int] = (0, 1)) -> Path:
    """Write records as a run does, and return the journal."""
    journal = Journal(folder, PLAN, shard)
    with journal.opened():
        for record in records:
            journal.add(record)
            journal.flush()
    return journal.path


def hold(folder: Path, shard: tuple[int, int], events: Any) -> None:
    opened, released = events
    with Journal(folder, PLAN, shard).opened():
        opened.set()
        released.wait(HANG_S)


@contextmanager
def elsewhere(folder: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold a journal open in another process, for locks do not hold within one."""
    events = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(folder, shard, events))
    process.start()
    try:
        assert events[0].wait(HANG_S)
        yield
    finally:
        events[1].set()
        process.join(HANG_S)


def test_records_are_read_as_they_were_noted(tmp_path: Path) -> None:
    records = [DONE, Record(0, "cloudy", "17 clouds"), Record(9, "refused", "caf\u00e9\nHTTP 404")]
    note(tmp_path, *records)

    assert read_journals(tmp_path, PLAN) == {record.place: record for record in records}
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_a_line_is_on_the_disk_after_a_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    journal = Journal(tmp_path, PLAN)
    with journal.opened():
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(journal.path.read_bytes()))
        journal.add(DONE)
        assert read_journals(tmp_path, PLAN) == {}
        journal.flush()

    assert synced == [journal.path.read_bytes()]
    assert synced[0].endswith(b"}\n")


@pytest.mark.parametrize("lost", [1, 2, 40])
def test_a_line_that_was_cut_off_is_forgotten(tmp_path: Path, lost: int) -> None:
    path = note(tmp_path, DONE, Record(4, "cloudy", "a long reason, so that much can be lost"))
    os.truncate(path, path.stat().st_size - lost)

    assert read_journals(tmp_path, PLAN) == {3: DONE}
    again = Record(4, "refused", "HTTP 404")
    note(tmp_path, again)
    assert read_journals(tmp_path, PLAN) == {3: DONE, 4: again}


@pytest.mark.parametrize("left", [b"", b'{"format": "coll', b"\0" * 50])
def test_a_journal_whose_first_line_was_cut_off_begins_again(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(left)
    assert read_journals(tmp_path, PLAN) == {}
    note(tmp_path, DONE)
    assert read_journals(tmp_path, PLAN) == {3: DONE}


@pytest.mark.parametrize(
    ("first", "last"),
    [(Record(3, "refused"), DONE), (Record(3, "refused"), CLOUDY), (Record(3, "done"), DONE)],
)
def test_the_last_record_of_a_place_counts(tmp_path: Path, first: Record, last: Record) -> None:
    note(tmp_path, first, last)
    assert read_journals(tmp_path, PLAN) == {3: last}


@pytest.mark.parametrize("shards", [((0, 1), (0, 2)), ((0, 2), (0, 1))])
def test_a_place_is_done_if_it_is_in_any_journal(
    tmp_path: Path, shards: tuple[tuple[int, int], ...]
) -> None:
    """They are of runs with another number of shards; other files are not journals."""
    (tmp_path / "journal-old.jsonl").write_text("mine")
    paths = [
        note(tmp_path, *some, shard=shard)
        for some, shard in zip([[CLOUDY], [DONE]], shards, strict=True)
    ]
    assert {path.name for path in paths} == {"journal.jsonl", "journal-00000-of-00002.jsonl"}
    assert read_journals(tmp_path, PLAN) == {3: DONE}


def test_a_full_disk_is_one_sentence_and_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, PLAN)
    with journal.opened():
        journal.add(Record(1, "cloudy", "clouds"))
        journal.flush()
        journal.add(DONE)

        def half(file: int) -> None:
            os.truncate(journal.path, journal.path.stat().st_size - 30)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr(os, "fsync", half)
            with pytest.raises(UserError, match=r"No space left.*the same command again"):
                journal.flush()
        # There is room again: what could not be written is written at the end.

    assert sorted(read_journals(tmp_path, PLAN)) == [1, 3]


OTHER_PLAN = json.dumps({"format": "collection journal 1", "plan": "q" * 64, "shard": [0, 1]})


@pytest.mark.parametrize(
    "line",
    [OTHER_PLAN, "[]", "null", "\x1b[31m", "{}", "[" * 100_000, "\xff"],
    ids=lambda line: repr(line[:9]),
)
def test_a_file_of_somebody_else_or_of_another_plan_is_refused_and_stays(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(f"{line}\n".encode("latin-1"))

    with pytest.raises(UserError, match="is not a journal of the plan in") as caught:
        read_journals(tmp_path, PLAN)
    with pytest.raises(UserError, match="not a journal"), Journal(tmp_path, PLAN).opened():
        pass
    assert str(caught.value).isprintable()
    assert path.read_bytes() == f"{line}\n".encode("latin-1")


def test_a_journal_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(UserError, match=r"journal\.jsonl: Is a directory"):
        read_journals(tmp_path, PLAN)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"7",
        b"{}",
        b'{"place": 3}',
        b'{"place": true, "outcome": "cloudy"}',
        b'{"place": -1, "outcome": "cloudy"}',
        b'{"place": 3.5, "outcome": "cloudy"}',
        b'{"place": 3, "outcome": "fine"}',
        b'{"place": 3, "outcome": ["done"]}',
        b'{"place": 3, "outcome": "done", "scenes": ["../../etc"]}',
        b'{"place": 3, "outcome": "done", "scenes": "abc"}',
        b'{"place": 3, "outcome": "done", "sha256": 5}',
        b'{"place": 3, "outcome": "done", "num_bytes": "7"}',
        b'{"place": 3, "outcome": "done", "more": 1}',
        b'{"place": ' + b"9" * 5000 + b', "outcome": "done"}',
        b"[" * 100_000,
        b"\0\0\0",
    ],
    ids=lambda content: repr(content[:60]),
)
def test_a_damaged_line_is_named(tmp_path: Path, content: bytes) -> None:
    path = note(tmp_path, DONE)
    path.write_bytes(path.read_bytes() + content + b"\n" + b'{"place": 8, "outcome": "cloudy"}\n')

    with pytest.raises(UserError, match=r"^line 3 of .*journal\.jsonl is damaged"):
        read_journals(tmp_path, PLAN)


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    with elsewhere(tmp_path, (1, 2)):
        for shard in ((1, 2), (1, 3)):  # another number of shards divides the places differently
            with (
                pytest.raises(UserError, match=r"another process collects .*with the same N"),
                Journal(tmp_path, PLAN, shard).opened(),
            ):
                pass
        with Journal(tmp_path, PLAN, (0, 2)).opened():  # other shards may
            pass
        forget(tmp_path, set())


@pytest.mark.parametrize("change", [discard_journals, lambda folder: forget(folder, {3})])
def test_journals_change_together_or_not_at_all(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    paths = [note(tmp_path, DONE, shard=(number, 3)) for number in range(3)]
    with elsewhere(tmp_path, (1, 3)):
        with pytest.raises(UserError, match="another process collects"):
            change(tmp_path)
        assert all(b'"place": 3' in path.read_bytes() for path in paths)
    change(tmp_path)
    assert read_journals(tmp_path, PLAN) == {}


def test_the_lock_of_a_killed_process_does_not_refuse_the_next(tmp_path: Path) -> None:
    (tmp_path / "journal.lock").touch()
    (tmp_path / "journal-00000-of-00004.lock").touch()
    note(tmp_path, DONE)
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_places_are_forgotten_in_all_journals(tmp_path: Path) -> None:
    note(tmp_path, DONE, Record(4, "cloudy", "clouds"), shard=(0, 2))
    torn = note(tmp_path, Record(5, "done"), Record(3, "refused", "HTTP 404"), shard=(1, 2))
    torn.write_bytes(torn.read_bytes() + b'{"place": 4')
    (tmp_path / "journal-00002-of-00003.jsonl").touch()

    forget(tmp_path, {3})

    assert sorted(read_journals(tmp_path, PLAN)) == [4, 5]
    lines = (tmp_path / "journal-00000-of-00002.jsonl").read_text().splitlines()
    assert [json.loads(line).get("place") for line in lines] == [None, 4]
