"""Which chunks of a packing are on the disk: what an interrupted one goes on from."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets.store.manifest import Flaw, Manifest
from utils.errors import UserError

JOURNAL_NAME = "packing.jsonl"
LOCK_NAME = "packing.lock"


class PackingJournal:
    """The chunks of a packing that are on the disk, and what was wrong with their patches.

    Args:
        path: File of JSON lines; the first one tells which plan they belong to.
        plan: What is packed.
        source: Where it is read from; a zip that has changed is another source.
    """

    def __init__(self, path: Path, plan: Manifest, source: Path) -> None:
        self.path = path
        self.flaws: dict[int, list[Flaw]] = {}  # per finished chunk
        stat = source.stat()
        version = [stat.st_size, stat.st_mtime_ns] if source.is_file() else []
        content = json.dumps([plan.to_json(), str(source.resolve()), version], sort_keys=True)
        self._header = {"plan": hashlib.sha256(content.encode()).hexdigest()}
        self._fresh: list[int] = []

    @property
    def num_fresh(self) -> int:
        """Number of chunks that wait for ``flush``."""
        return len(self._fresh)

    def open(self) -> None:
        """Read the journal of an interrupted packing, or begin one in an empty folder."""
        if self.path.exists():
            self._read()
            return
        own = {LOCK_NAME, f".{self.path.name}.partial"}
        strangers = [path.name for path in self.path.parent.iterdir() if path.name not in own]
        if strangers:
            raise UserError(
                f"{self.path.parent} is not empty, it holds {strangers[0]}: choose another "
                "--save_path"
            )
        self.forget()

    def forget(self) -> None:
        """Begin again: the shards are not those of the journal."""
        self.flaws.clear()
        self._replace([self._header])

    def add(self, chunk: int, flaws: list[Flaw]) -> None:
        """Note a chunk that has been written; ``flush`` puts it on the disk."""
        self.flaws[chunk] = flaws
        self._fresh.append(chunk)

    def flush(self) -> None:
        """Write the new lines; the shards have to be on the disk before."""
        with self.path.open("a") as file:
            for chunk in self._fresh:
                flaws = [asdict(flaw) for flaw in self.flaws[chunk]]
                file.write(json.dumps({"chunk": chunk, "flaws": flaws}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._fresh.clear()

    def _read(self) -> None:
        lines = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # cut off in the middle
        if not lines:  # the disk was full before the first line
            self.forget()
            return
        if lines[:1] != [self._header]:
            raise UserError(
                f"{self.path.parent} holds the beginning of a store of other data or --bands, or "
                "its source has changed: use the flags of that packing, or another --save_path"
            )
        for line in lines[1:]:
            self.flaws[line["chunk"]] = [Flaw(**flaw) for flaw in line["flaws"]]
        # The source may have been repaired since.
        self.flaws = {chunk: flaws for chunk, flaws in self.flaws.items() if not flaws}
        self._replace(lines)  # without the end that was cut off

    def _replace(self, lines: list[dict[str, Any]]) -> None:
        """Write the journal whole or not at all."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
        partial.replace(self.path)
