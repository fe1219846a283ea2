"""The Python files of the project, parsed."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datasets", "models", "utils")
FOLDERS = (*PACKAGES, "benchmarks", "checkpoints", "examples", "tests")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
MODULES = {dotted(path): path for path in [*ROOT.glob("main_*.py"), *PATHS]}


@cache
def trees() -> dict[str, ast.Module]:
    """Return the parsed files; call ``trees.cache_clear``: a tree takes 40 times its text."""
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def top(module: str) -> str:
    return module.partition(".")[0]
