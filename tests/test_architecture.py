"""Who may import whom, unique public names of the data sets, and the maps of the folders.

Scripts and benchmarks stand above everything. Doors are the files of ``datasets/``, wings its
folders, and the ground is what all wings stand on. ``models`` and ``datasets`` do not know each
other, and ``utils`` knows neither. Exceptions are listed; a list that is longer than the code needs
fails too, so that it only shrinks.
"""

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datasets", "models", "utils")
FOLDERS = (*PACKAGES, "benchmarks", "checkpoints", "tests")
PATHS = [
    *sorted(ROOT.glob("main_*.py")),
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))),
]
SCRIPTS = [
    path
    for path in PATHS
    if path.relative_to(ROOT).parts[0] in PACKAGES
    and '\nif __name__ == "__main__"' in path.read_text()
] + sorted((ROOT / "checkpoints").glob("*.py"))

GROUND = {f"datasets.{name}" for name in ("archive", "bands", "figures", "geotiff", "loaders")}
WINGS = {path.parent.name for path in (ROOT / "datasets").glob("*/__init__.py")}
# Between wings: a store holds SeCo's patches, and a collection is written into a store.
# The miniature's services have the archive in the UTM zones of the collector's places.
WING_TO_WING = {
    ("collect", "seco"),
    ("collect", "store"),
    ("miniature", "collect"),
    ("store", "seco"),
}
# Folders whose ``__init__.py`` lists their files and folders, one line each.
MAPPED = ["datasets", *(f"datasets/{name}" for name in sorted(WINGS)), "models", "utils"]
MAPPED += ["datasets/miniature/services", "tests", "tests/references", "tests/servers"]
# What every script has.
OF_SCRIPTS = {"main", "parse_args"}


class Import(NamedTuple):
    """An import of one of our modules, or of a name from it.

    Attributes:
        importer: Dotted name of the module that imports.
        module: Dotted name of the module that is imported.
        name: What is taken from it; empty for the module itself.
    """

    importer: str
    module: str
    name: str


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in PATHS}
OURS = {name.partition(".")[0] for name in MODULES}


def absolute(node: ast.ImportFrom, importer: str, *, is_package: bool) -> str:
    """Return the module of ``from ... import``, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = importer.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def imports_of(text: str, importer: str, *, is_package: bool = False) -> set[Import]:
    """Find all imports of our modules, also those in functions and under ``TYPE_CHECKING``."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {Import(importer, alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, importer, is_package=is_package)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                is_module = inner in MODULES
                found.add(Import(importer, *((inner, "") if is_module else (module, alias.name))))
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(Import(importer, str(node.args[0].value), ""))
    return {one for one in found if one.module.partition(".")[0] in OURS}


@cache
def all_imports() -> list[Import]:
    return sorted(
        one
        for name, path in MODULES.items()
        for one in imports_of(path.read_text(), name, is_package=path.name == "__init__.py")
    )


def top(module: str) -> str:
    return module.partition(".")[0]


def wing(module: str) -> str:
    """Return the wing of a module; empty for doors, the ground and everything else."""
    parts = module.split(".")
    return parts[1] if parts[0] == "datasets" and parts[1:] and parts[1] in WINGS else ""


def is_door(module: str) -> bool:
    return top(module) == "datasets" and not wing(module) and module not in GROUND


def imports_a_script(one: Import) -> bool:
    """Only tests and benchmarks import scripts and benchmarks."""
    is_script = top(one.module) == "benchmarks" or one.module.startswith("main_")
    return is_script and top(one.importer) not in {"tests", "benchmarks"}


def leaves_its_package(one: Import) -> bool:
    """``datasets`` and ``models`` import ``utils`` besides themselves, ``utils`` nothing else."""
    package = top(one.importer)
    return package in PACKAGES and top(one.module) not in {package, "utils"}


def wing_imports_a_door(one: Import) -> bool:
    return bool(wing(one.importer)) and is_door(one.module)


def wing_imports_another(one: Import) -> bool:
    pair = wing(one.importer), wing(one.module)
    return all(pair) and pair[0] != pair[1] and pair not in WING_TO_WING


def ground_imports_what_stands_on_it(one: Import) -> bool:
    on_it = top(one.module) == "datasets" and one.module not in GROUND
    return one.importer in GROUND and on_it


def imports_the_miniature(one: Import) -> bool:
    """The miniature Earth is for tests and benchmarks, and its own script."""
    users = {"datasets.mini_earth"}
    is_user = one.importer in users or top(one.importer) in {"tests", "benchmarks"}
    return wing(one.module) == "miniature" and wing(one.importer) != "miniature" and not is_user


def imports_a_private_name(one: Import) -> bool:
    parts = [*one.module.split("."), one.name]
    return any(part.startswith("_") and not part.endswith("__") for part in parts)


def imports_a_test_module(one: Import) -> bool:
    """What several test modules use is in ``tests/references`` or ``tests/servers``."""
    return any(part.startswith("test_") for part in one.module.split("."))


def imports_tests(one: Import) -> bool:
    return top(one.module) == "tests" and top(one.importer) != "tests"


RULES = [
    ground_imports_what_stands_on_it,
    imports_a_private_name,
    imports_a_script,
    imports_a_test_module,
    imports_tests,
    imports_the_miniature,
    leaves_its_package,
    wing_imports_a_door,
    wing_imports_another,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_breaks_a_rule(rule: Callable[[Import], bool]) -> None:
    assert {(one.importer, one.module) for one in all_imports() if rule(one)} == set()


BROKEN = [
    ("import main_oscd", "models.probes", imports_a_script),
    ("from benchmarks.demo import main", "main_oscd", imports_a_script),
    ("from benchmarks import demo", "datasets.seco_utils", leaves_its_package),
    ("def f():\n    from datasets.bands import ALL_BANDS", "models.probes", leaves_its_package),
    ("from models import probes", "utils.files", leaves_its_package),
    (
        "if TYPE_CHECKING:\n    from datasets import seco_utils",
        "datasets.seco.x",
        wing_imports_a_door,
    ),
    ("from .. import seco_utils", "datasets.seco.x", wing_imports_a_door),
    ("from ..oscd.files import find_cities", "datasets.seco.x", wing_imports_another),
    ("from datasets import store", "datasets.seco.x", wing_imports_another),
    ("import datasets.seco.patches", "datasets.bands", ground_imports_what_stands_on_it),
    ("from .store import open", "datasets.bands", ground_imports_what_stands_on_it),
    ("from datasets.miniature import covers", "datasets.oscd_dataset", imports_the_miniature),
    ("from utils.files import _BLOCK", "tests.test_x", imports_a_private_name),
    ("import_module('tests.references.script')", "benchmarks.demo", imports_tests),
    ("from tests.utils.test_files import f", "tests.test_x", imports_a_test_module),
    ("from tests.utils import test_files", "tests.test_x", imports_a_test_module),
]


@pytest.mark.parametrize(("text", "importer", "rule"), BROKEN)
def test_rules_see_every_way_to_import(
    text: str, importer: str, rule: Callable[[Import], bool]
) -> None:
    assert any(map(rule, imports_of(text, importer)))


def test_imports_are_absolute_and_name_what_they_take() -> None:
    assert not [
        f"{module}, line {node.lineno}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.level or any(alias.name == "*" for alias in node.names))
    ]


def test_a_public_name_of_the_data_sets_is_defined_once() -> None:
    owners = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body if top(module) == "datasets" else []:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                owners[node.name].append(module)
    public = {name: found for name, found in owners.items() if not name.startswith("_")}
    assert not {
        name: found for name, found in public.items() if len(found) > 1 and name not in OF_SCRIPTS
    }


@pytest.mark.parametrize("folder", MAPPED)
def test_a_map_names_every_file_of_its_folder_once(folder: str) -> None:
    (docstring,) = ast.parse((ROOT / folder / "__init__.py").read_text()).body  # and no imports
    assert isinstance(docstring, ast.Expr)
    text = ast.literal_eval(docstring.value)
    lines = [line for line in text.splitlines() if line.startswith("-")]
    matches = [re.fullmatch(r"- ``([\w.]+/?)``: \S.*\.", line) for line in lines]
    named = [match[1] if match else None for match in matches]
    modules = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
    packages = {f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")}
    assert None not in named, "- ``name``: Sentence."
    assert set(named) == modules | packages
    assert len(named) == len(set(named))


@pytest.mark.parametrize("package", PACKAGES)
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
        if isinstance(node, ast.ImportFrom) and top(str(node.module)) in OURS
    )
