"""A standard output that may become full or lose its reader without ending the work."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any


class _Output:
    """A stream that is written to until its first error, which is kept."""

    def __init__(self, stream: IO[str], errors: list[OSError]) -> None:
        self._stream = stream
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not self._errors:
            try:
                self._stream.write(text)
            except OSError as error:
                self._errors.append(error)
        return len(text)

    def flush(self) -> None:
        if not self._errors:
            try:
                self._stream.flush()
            except OSError as error:
                self._errors.append(error)


@contextmanager
def lenient_output() -> Iterator[list[OSError]]:
    """Let nothing that is printed in this context raise an error; yield a list for the first one.

    What a failed output still holds is discarded, as Python would write it again at its end.
    """
    errors: list[OSError] = []
    stream = sys.stdout
    if stream is None:  # a process without a standard output
        yield errors
        return
    output = _Output(stream, errors)
    try:
        with redirect_stdout(output):
            yield errors
    finally:
        output.flush()
        if errors:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
