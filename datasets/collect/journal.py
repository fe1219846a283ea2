"""Record which places of a collection are done or failed: one file of JSON lines per shard.

The first line names the plan; a line that a killed process left unfinished is cut off. A place is
done when its line is on the disk, which is after its files are.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from utils.errors import UserError
from utils.files import check_regular, remove_partials, written_whole
from utils.locks import sole_writer

FORMAT = "collection journal 1"
Outcome = Literal["done", "no_scene", "cloudy", "refused"]
Shard = tuple[int, int]  # number and count
_NAMES = re.compile(r"journal(-\d{5}-of-\d{5})?\.jsonl")


@dataclass(frozen=True)
class Record:
    """The outcome of a place.

    Attributes:
        place: Number in the plan.
        outcome: Final, unless --retry requests it again.
        reason: In words, where it is not done.
        scenes: Names of its scenes.
        passed_over: Better scenes of the same windows, each with the reason in words.
        num_bytes: Size of all its files.
        sha256: Hash of all its files, see ``writer.place_hash``.
    """

    place: int
    outcome: Outcome
    reason: str = ""
    scenes: tuple[str, ...] = ()
    num_bytes: int = 0
    sha256: str = ""
    passed_over: tuple[str, ...] = ()


def shard_name(stem: str, shard: Shard, suffix: str) -> str:
    """Return stem.suffix for the only shard, else stem-00001-of-00004.suffix."""
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
        self._plan_hash = plan_hash
        self._header = {"format": FORMAT, "plan": plan_hash, "shard": list(shard)}
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
        lock = self.path.with_suffix(".lock")
        with sole_writer(lock, _busy(self.path)):
            _refuse_other_counts(lock)  # after our lock, so that two that start together see it
            self._begin()
            try:
                yield self
            finally:
                self.flush()

    def add(self, record: Record) -> None:
        """Keep a record in memory; only ``flush`` writes it."""
        line = {key: value for key, value in asdict(record).items() if value or key == "place"}
        self._fresh.append(json.dumps(line))

    def flush(self) -> None:
        """Write the new lines; the files of their places have to be on the disk before.

        After an error they are written again, over what is left of them.
        """
        if not self._fresh:
            return
        content = "".join(f"{line}\n" for line in self._fresh).encode()
        try:
            with self.path.open("r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} ({error.strerror}): make room, and run the same command "
                "again to resume"
            ) from error
        self._size += len(content)
        self._fresh.clear()

    def _begin(self) -> None:
        lines = list(_lines(self.path)) if self.path.exists() else []
        if lines:
            _check_header(lines[0], self.path, self._plan_hash)
        else:
            lines = [json.dumps(self._header).encode() + b"\n"]
            _replace(self.path, lines)
        self._size = sum(map(len, lines))


def forget(save_path: Path, places: set[int]) -> None:
    """Remove places from all journals, so that they are collected again.

    Raises:
        UserError: A process writes to one of them.
    """
    for path in _journals(save_path) if places else ():
        with sole_writer(path.with_suffix(".lock"), _busy(path)):
            header, *lines = list(_lines(path)) or [b""]
            kept = [line for line in lines if json.loads(line)["place"] not in places]
            if len(kept) < len(lines):
                _replace(path, [header, *kept])


def discard_journals(save_path: Path) -> None:
    """Delete all journals.

    Raises:
        UserError: A process writes to one of them; then all are kept.
    """
    with ExitStack() as held:
        paths = _journals(save_path)
        for path in paths:
            held.enter_context(sole_writer(path.with_suffix(".lock"), _busy(path)))
        for path in paths:
            path.unlink()


def read_journals(save_path: Path, plan_hash: str) -> dict[int, Record]:
    """Return a record of every place that any shard has settled.

    A "done" record wins, also over those of another journal, which exist if the number of shards
    has changed; otherwise the last record does.

    Raises:
        UserError: A journal of another plan, or one that is damaged before its last line.
    """
    records: dict[int, Record] = {}
    for path in _journals(save_path):
        for record in _read(path, plan_hash):
            before = records.get(record.place)
            if before is None or before.outcome != "done" or record.outcome == "done":
                records[record.place] = record
    return records


def _journals(save_path: Path) -> list[Path]:
    paths = sorted(save_path.glob("journal*.jsonl"))
    return [path for path in paths if _NAMES.fullmatch(path.name)]


def _busy(journal: Path) -> str:
    return f"another process collects into {journal.parent} by {journal.name}: wait for it"


def _lines(path: Path) -> Iterator[bytes]:
    """Read a journal, without a last line that was cut off."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check it") from error


def _replace(path: Path, lines: list[bytes]) -> None:
    remove_partials(path)
    with written_whole(path) as partial, partial.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, plan_hash: str) -> Iterator[Record]:
    for number, line in enumerate(_lines(path), 1):
        if number == 1:
            _check_header(line, path, plan_hash)
            continue
        try:
            yield _parse(json.loads(line))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"line {number} of {path} is damaged: delete that line, and its place is "
                "collected again"
            ) from error


def _parse(content: dict[str, Any]) -> Record:
    lists = {name: content.get(name, []) for name in ("scenes", "passed_over")}
    record = Record(**{**content, **{name: tuple(value) for name, value in lists.items()}})
    texts = (record.reason, record.sha256, *record.scenes, *record.passed_over)
    if (
        not all(type(value) is list for value in lists.values())
        or type(record.place) is not int
        or type(record.num_bytes) is not int
        or record.place < 0
        or record.outcome not in get_args(Outcome)
        or not all(isinstance(text, str) for text in texts)
        or not all(re.fullmatch(r"[\w-]+", scene) for scene in record.scenes)
    ):
        raise ValueError(content)
    return record


def _check_header(line: bytes, path: Path, plan_hash: str) -> None:
    try:
        header = json.loads(line)
        is_journal = header["format"] == FORMAT
        plan = header["plan"]
    except (ValueError, TypeError, KeyError, RecursionError):
        is_journal, plan = False, ""
    if not is_journal:
        raise UserError(
            f"{path} is not a journal of a collection: move it away, or choose another --save_path"
        )
    if plan != plan_hash:
        raise UserError(
            f"{path} belongs to another plan than {path.parent / 'plan.json'}: choose another "
            "--save_path, or restore that plan"
        )


def _refuse_other_counts(lock: Path) -> None:
    """Refuse to run at the same time as processes that divide the places in another way."""
    _, _, count = lock.stem.partition("-of-")
    for other in lock.parent.glob("journal*.lock"):
        if other.stem.partition("-of-")[2] == count:
            continue
        busy = (
            f"another process collects into {lock.parent} with another number of shards: wait for "
            "it, or use its --shard"
        )
        with sole_writer(other, busy):
            pass
