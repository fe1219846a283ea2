"""Act at the system calls by which a child writes its files."""

import io
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

Act = Callable[[str, Callable[[], Any]], Any]  # kind of a system call, and the call itself


class Sabotage:
    """Act at one of the system calls that write below a folder: open, write, fsync, rename, link.

    Args:
        below: Name of a folder in the path.
        act: Is given the kind of each call and the call, from the number ``at`` on.
        at: Number of the first call, from 0.
    """

    def __init__(self, below: str, act: Act, at: int = 0) -> None:
        self.below, self.act, self.at, self.calls = below, act, at, 0

    def __call__(self, kind: str, path: object, call: Callable[[], Any]) -> Any:
        """Make a call, or act instead.

        Args:
            kind: Kind of the call.
            path: File that it concerns.
            call: The call itself.
        """
        if self.below not in Path(str(path)).parts:
            return call()
        self.calls += 1
        return self.act(kind, call) if self.calls > self.at else call()

    def install(self) -> None:
        """Put this between Python and the system, in this process."""
        sabotage = self
        replace, link, fsync, open_path = Path.replace, Path.hardlink_to, os.fsync, Path.open
        write_fd = os.write

        class File(io.FileIO):
            def write(self, data: Any, /) -> int:
                write = super().write
                done = sabotage("write", self.name, lambda: write(data))
                return int(done)

        def open_it(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wa+"):
                if set(mode) & set("wa+"):
                    return sabotage("open", path, lambda: open_path(path, mode, *args, **kwargs))
                return open_path(path, mode, *args, **kwargs)
            raw = sabotage("open", path, lambda: File(str(path), mode.replace("b", "")))
            if kwargs.get("buffering") == 0:
                return raw
            return (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)

        def named(descriptor: int) -> str:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink())

        def write_it(fd: int, data: Any) -> int:
            return int(sabotage("write", named(fd), lambda: write_fd(fd, data)))

        patch.multiple(
            Path,
            replace=lambda path, to: sabotage("rename", path, lambda: replace(path, to)),
            hardlink_to=lambda path, to: sabotage("link", path, lambda: link(path, to)),
            open=open_it,
        ).start()
        patch.multiple(
            os, fsync=lambda fd: sabotage("fsync", named(fd), lambda: fsync(fd)), write=write_it
        ).start()


def kill_here(rng: random.Random) -> Act:
    """Return an act that ends the process by SIGKILL before or after a call, or within a write.

    Args:
        rng: Chooses when.
    """

    def act(kind: str, call: Callable[[], Any]) -> Any:
        if rng.random() < 0.5:
            call()
        os.kill(os.getpid(), signal.SIGKILL)

    return act
