"""Imports point down: main_* > datasets, models > utils."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"datasets": {"datasets", "utils"}, "models": {"models", "utils"}, "utils": {"utils"}}
FIRST_PARTY = {*MAY_IMPORT, "benchmarks", "tests", *(path.stem for path in ROOT.glob("main_*.py"))}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
SCRIPTS = [
    *(path for path in FILES if "__main__" in path.read_text()),
    *sorted((ROOT / "checkpoints").glob("*.py")),
]


def imported(path: Path) -> set[str]:
    """Return the first names of all imports, also of those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            assert all(alias.name != "*" for alias in node.names), f"{path.name}: name the imports"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    assert imported(path) & FIRST_PARTY <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_our_package_wins_over_an_installed_one_of_its_name(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).parent == ROOT / package


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_in_packages_extend_the_path_before_they_import_ours(path: Path) -> None:
    """``python datasets/x.py`` starts with ``datasets/`` on the path, not with the root."""
    body = ast.parse(path.read_text()).body
    shim = next(node.lineno for node in body if ast.unparse(node).startswith("if not __package__"))
    assert all(
        node.lineno > shim
        for node in body
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in FIRST_PARTY
    )


def test_test_modules_do_not_import_each_other() -> None:
    """What several of them use is in ``tests/references`` or ``tests/servers``."""
    found = [
        f"{path.relative_to(ROOT)} imports {node.module}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and any(part.startswith("test_") for part in str(node.module).split("."))
    ]
    assert not found
