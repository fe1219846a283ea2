"""Every row of docs/differences.md is shown by a test that is marked with its key."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
DOCUMENT = (TESTS.parent / "docs/differences.md").read_text()
ROWS = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
MAX_ROW = 172  # characters: a row is read at a glance


def keys_of_marks(source: str) -> Iterator[str]:
    """Yield the keys of ``@pytest.mark.difference(...)`` above tests, without importing them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if ast.unparse(mark).startswith("pytest.mark.difference"):
                    assert isinstance(mark, ast.Call), f"{node.name}: a difference needs a key"
                    yield from (ast.literal_eval(key) for key in mark.args)


def test_every_row_has_a_marked_test_and_every_mark_a_row() -> None:
    example = '@pytest.mark.difference("a", "b")\n@pytest.mark.slow\ndef {}(): ...'
    assert list(keys_of_marks(example.format("test_one"))) == ["a", "b"]
    assert list(keys_of_marks(example.format("helper"))) == []
    keys = [row.split("`")[1] for row in ROWS]
    marked = {key for path in TESTS.rglob("test_*.py") for key in keys_of_marks(path.read_text())}
    assert set(keys) - marked == set(), "rows without a test"
    assert marked - set(keys) == set(), "marks without a row"
    assert len(keys) == len(set(keys)) > 0


def test_rows_are_short_and_complete() -> None:
    for row in ROWS:
        assert len(re.split(r"(?<!\\)\|", row)) == 6, row
        assert len(row) <= MAX_ROW, row
