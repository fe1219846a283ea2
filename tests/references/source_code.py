"""The Python files of the project, parsed."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datasets", "models", "utils")
FOLDERS = (*PACKAGES, "benchmarks", "checkpoints", "tests")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = {dotted(path): path.read_text() for path in [*ROOT.glob("main_*.py"), *PATHS]}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}


def top(module: str) -> str:
    return module.partition(".")[0]
