"""Record which places of a collection are done or failed: one file of JSON lines per shard.

The first line names the plan; an unfinished last line is cut off. Files are on the disk before it.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from utils.errors import NOT_AS_WRITTEN, UserError, os_error_sentence
from utils.files import check_regular, remove_partials, written_whole
from utils.locks import sole_writer

_FORMAT = "collection journal 1"
Outcome = Literal["done", "no_scene", "cloudy", "refused"]
Shard = tuple[int, int]  # number and count
_LONGEST_LINE = 2**20  # bytes, far more than any record has
_NAMES = re.compile(r"journal(-\d{5}-of-\d{5})?\.jsonl")


@dataclass(frozen=True)
class Record:
    """The outcome of a place."""

    place: int  # number in the plan
    outcome: Outcome  # final, unless --retry requests it again
    reason: str = ""  # in words, where it is not done
    scenes: tuple[str, ...] = ()  # names of its scenes
    num_bytes: int = 0  # size of all its files
    sha256: str = ""  # hash of all its files, see ``writer.place_hash``
    passed_over: tuple[str, ...] = ()  # better scenes of its windows, each with the reason


def shard_name(stem: str, shard: Shard, suffix: str) -> str:
    """Return stem.suffix for the only shard, else stem-00001-of-00004.suffix.

    Args:
        stem: Beginning of the name.
        shard: Number and count.
        suffix: End of the name, with its dot.
    """
    number, count = shard
    return f"{stem}{suffix}" if count == 1 else f"{stem}-{number:05}-of-{count:05}{suffix}"


class Journal:
    """The journal of one shard, to be appended to.

    Args:
        save_path: Folder of the collection.
        plan_hash: Hash of the plan that the lines belong to.
        shard: Number and count.
    """

    def __init__(self, save_path: Path, plan_hash: str, shard: Shard = (0, 1)) -> None:
        self.path = save_path / shard_name("journal", shard, ".jsonl")
        self._plan_hash, self._shard = plan_hash, shard
        self._fresh: list[str] = []
        self._size = 0  # bytes of whole lines; what is behind them is cut off

    @contextmanager
    def opened(self) -> Iterator["Journal"]:
        """Lock the journal for this process; begin it, or continue after its last whole line.

        Raises:
            UserError: It belongs to another plan, or another process writes to this collection as
                the same shard or as one of another number of shards.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _sole_writer(self.path):
            # After our lock, so that two that divide the places in other ways see each other.
            for lock in self.path.parent.glob("journal*.lock"):
                if lock.stem.partition("-of-")[2] != self.path.stem.partition("-of-")[2]:
                    with _sole_writer(lock.with_suffix(".jsonl")):
                        pass
            lines = _lines(self.path, self._plan_hash) if self.path.exists() else []
            if not lines:
                header = {"format": _FORMAT, "plan": self._plan_hash, "shard": list(self._shard)}
                lines = [json.dumps(header).encode() + b"\n"]
                _replace(self.path, lines)
            self._size = sum(map(len, lines))
            try:
                yield self
            finally:
                self.flush()

    def add(self, record: Record) -> None:
        """Keep a record in memory; only ``flush`` writes it."""
        line = {key: value for key, value in asdict(record).items() if value or key == "place"}
        self._fresh.append(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Write the new lines, again after an error; their places are on the disk before.

        Raises:
            UserError: The file cannot be written.
        """
        if not self._fresh:
            return
        content = "".join(self._fresh).encode()
        try:
            with self.path.open("r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {os_error_sentence(error, self.path)}, and run the same command "
                "again to resume"
            ) from error
        self._size += len(content)
        self._fresh.clear()


def forget(save_path: Path, places: set[int]) -> None:
    """Remove places from all journals, so that they are collected again.

    Args:
        save_path: Folder of the collection.
        places: Numbers of the places.

    Raises:
        UserError: A process writes to a journal; all journals stay as they are.
    """
    if not places:
        return
    with _all_locked(save_path) as journals:
        for path in journals:
            header, *lines = _lines(path) or [b""]
            kept = [line for line in lines if json.loads(line)["place"] not in places]
            if len(kept) < len(lines):
                _replace(path, [header, *kept])


def discard_journals(save_path: Path) -> None:
    """Delete all journals; a ``UserError`` if a process writes to one, and then all stay."""
    with _all_locked(save_path) as journals:
        for path in journals:
            path.unlink()


def read_journals(save_path: Path, plan_hash: str) -> dict[int, Record]:
    """Return a record of every place that any shard has settled.

    A "done" record wins, also over those of another journal, which exist if the number of shards
    has changed; otherwise the last record does.

    Args:
        save_path: Folder of the collection.
        plan_hash: Hash of the plan.

    Raises:
        UserError: A journal is damaged, or of another plan.
    """
    records: dict[int, Record] = {}
    for path in _journals(save_path):
        for number, line in enumerate(_lines(path, plan_hash)[1:], 2):
            try:
                record = _parse(json.loads(line))
            except NOT_AS_WRITTEN as error:
                raise UserError(
                    f"line {number} of {path} is damaged: delete that line, and its place is "
                    "collected again"
                ) from error
            before = records.get(record.place)
            if before is None or before.outcome != "done" or record.outcome == "done":
                records[record.place] = record
    return records


def _journals(save_path: Path) -> list[Path]:
    paths = sorted(save_path.glob("journal*.jsonl"))
    return [path for path in paths if _NAMES.fullmatch(path.name)]


def _lines(path: Path, plan_hash: str | None = None) -> list[bytes]:
    """Read a journal of a plan, or of any plan, without a last line that was cut off."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            read = partial(file.readline, _LONGEST_LINE)
            lines = [line for line in iter(read, b"") if line.endswith(b"\n")]
    except OSError as error:
        raise UserError(f"cannot read {os_error_sentence(error, path)}") from error
    try:
        header = json.loads(lines[0]) if lines else {"format": _FORMAT, "plan": plan_hash}
        is_ours = header["format"] == _FORMAT and plan_hash in (None, header["plan"])
    except NOT_AS_WRITTEN:
        is_ours = False
    if not is_ours:
        raise UserError(
            f"{path} is not a journal of the plan in {path.parent / 'plan.json'}: move it away, "
            "restore its plan, or choose another --save_path"
        )
    return lines


def _replace(path: Path, lines: list[bytes]) -> None:
    remove_partials(path)
    with written_whole(path) as partial:
        partial.write_bytes(b"".join(lines))


def _parse(content: dict[str, Any]) -> Record:
    lists = {name: content.get(name, []) for name in ("scenes", "passed_over")}
    record = Record(**{**content, **{name: tuple(value) for name, value in lists.items()}})
    texts = (record.reason, record.sha256, *record.scenes, *record.passed_over)
    is_number = [type(value) is int and value >= 0 for value in (record.place, record.num_bytes)]
    if (
        not all(is_number)
        or not all(type(value) is list for value in lists.values())
        or record.outcome not in get_args(Outcome)
        or not all(isinstance(text, str) for text in texts)
        or not all(re.fullmatch(r"[\w-]+", scene) for scene in record.scenes)
    ):
        raise ValueError(content)
    return record


@contextmanager
def _all_locked(save_path: Path) -> Iterator[list[Path]]:
    """Lock all journals, and give their paths."""
    paths = _journals(save_path)
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(_sole_writer(path))
        yield paths


@contextmanager
def _sole_writer(journal: Path) -> Iterator[None]:
    """Lock a journal; a ``UserError`` if another process writes to it."""
    busy = (
        f"another process collects into {journal.parent} by {journal.name}: wait for it; --shard "
        "I/N lets several share the work, all with the same N"
    )
    with sole_writer(journal.with_suffix(".lock"), busy):
        yield
