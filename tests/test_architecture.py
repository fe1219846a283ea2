"""Who may import whom, unique public names of the data sets, and the maps of the folders.

Scripts, benchmarks and examples stand above everything. Doors are the files of ``datasets/``, wings
its folders, and the ground is the files and folders that all wings stand on. ``models`` and
``datasets`` do not know each other, and ``utils`` knows neither.
"""

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.references.source_code import MODULES, PACKAGES, ROOT, top, trees

ABOVE = ("benchmarks", "examples")
OURS = {name.partition(".")[0] for name in MODULES}
GROUND = {"archive", "bands", "checking", "figures", "geotiff", "loaders"}
FOLDERS = {path.parent.name for path in (ROOT / "datasets").glob("*/__init__.py")}
WINGS = FOLDERS - GROUND
# Between wings: a store holds SeCo's patches, and a collection is written into a store.
# The miniature's services have the archive in the UTM zones of the collector's places.
WING_TO_WING = {
    ("collect", "seco"),
    ("collect", "store"),
    ("miniature", "collect"),
    ("store", "seco"),
}
# Folders whose ``__init__.py`` lists their files and folders, one line each.
MAPPED = ["datasets", *(f"datasets/{name}" for name in sorted(FOLDERS)), "models", "utils"]
MAPPED += ["datasets/miniature/services", "examples", "tests", "tests/references", "tests/servers"]


class Import(NamedTuple):
    """An import of one of our modules, or of a name from it; dotted names."""

    importer: str
    module: str
    name: str  # empty for the module itself


def imports_of(tree: ast.Module, importer: str) -> Iterator[Import]:
    """Find all imports of our modules, also those in functions and under ``TYPE_CHECKING``."""
    for node in ast.walk(tree):
        found: list[tuple[str, str]] = []
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((inner, "") if inner in MODULES else (str(node.module), alias.name))
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function == "import_module":
                found = [(ast.unparse(node.args[0]).strip("'"), "")]
        yield from (Import(importer, *each) for each in found if top(each[0]) in OURS)


@cache
def all_imports() -> list[Import]:
    return [one for name, tree in trees().items() for one in imports_of(tree, name)]


def wing(module: str) -> str:
    """Return the wing of a module; empty for doors, the ground and everything else."""
    parts = module.split(".")
    return parts[1] if parts[0] == "datasets" and parts[1:] and parts[1] in WINGS else ""


def is_ground(module: str) -> bool:
    package, _, inner = module.partition(".")
    return package == "datasets" and top(inner) in GROUND


def imports_a_script(one: Import) -> bool:
    """Only tests, benchmarks and examples import scripts."""
    is_script = top(one.module) in ABOVE or one.module.startswith("main_")
    return is_script and top(one.importer) not in {"tests", *ABOVE}


def leaves_its_package(one: Import) -> bool:
    """``datasets`` and ``models`` import ``utils`` besides themselves, ``utils`` nothing else."""
    package = top(one.importer)
    return package in PACKAGES and top(one.module) not in {package, "utils"}


def wing_imports_a_door(one: Import) -> bool:
    is_door = top(one.module) == "datasets" and not wing(one.module) and not is_ground(one.module)
    return is_door and bool(wing(one.importer))


def wing_imports_another(one: Import) -> bool:
    pair = wing(one.importer), wing(one.module)
    return all(pair) and pair[0] != pair[1] and pair not in WING_TO_WING


def ground_imports_what_stands_on_it(one: Import) -> bool:
    on_it = top(one.module) == "datasets" and not is_ground(one.module)
    return is_ground(one.importer) and on_it


def imports_the_miniature(one: Import) -> bool:
    """The miniature Earth is for tests and benchmarks, and its own script."""
    is_user = one.importer == "datasets.mini_earth" or top(one.importer) in {"tests", "benchmarks"}
    return wing(one.module) == "miniature" != wing(one.importer) and not is_user


def imports_a_private_name(one: Import) -> bool:
    parts = [*one.module.split("."), one.name]
    return any(part.startswith("_") and not part.endswith("__") for part in parts)


def imports_a_test_module(one: Import) -> bool:
    """What several test modules use is in ``tests/references`` or ``tests/servers``."""
    return any(part.startswith("test_") for part in one.module.split("."))


def imports_tests(one: Import) -> bool:
    return top(one.module) == "tests" != top(one.importer)


# Each rule, with imports that break it.
RULES: dict[Callable[[Import], bool], list[tuple[str, str]]] = {
    ground_imports_what_stands_on_it: [
        ("import datasets.seco.patches", "datasets.bands"),
        ("from datasets import download", "datasets.checking.checksums"),
    ],
    imports_a_private_name: [("from utils.files import _BLOCK", "tests.test_x")],
    imports_a_script: [
        ("import main_oscd", "models.probes"),
        ("from benchmarks.demo import main", "main_oscd"),
        ("from examples import change_map", "main_oscd"),
    ],
    imports_a_test_module: [
        ("from tests.utils.test_files import f", "tests.test_x"),
        ("from tests.utils import test_files", "tests.test_x"),
    ],
    imports_tests: [("import_module('tests.references.script')", "benchmarks.demo")],
    imports_the_miniature: [("from datasets.miniature import covers", "datasets.oscd_dataset")],
    leaves_its_package: [
        ("from benchmarks import demo", "datasets.seco_utils"),
        ("def f():\n    from datasets.bands import ALL_BANDS", "models.probes"),
        ("from models import probes", "utils.files"),
    ],
    wing_imports_a_door: [
        ("if TYPE_CHECKING:\n    from datasets import seco_utils", "datasets.seco.x")
    ],
    wing_imports_another: [
        ("from datasets.oscd.files import find_cities", "datasets.seco.x"),
        ("from datasets import store", "datasets.seco.x"),
    ],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_breaks_a_rule_that_sees_every_way_to_import(
    rule: Callable[[Import], bool],
) -> None:
    assert {one for one in all_imports() if rule(one)} == set()
    for text, importer in RULES[rule]:
        assert any(map(rule, imports_of(ast.parse(text), importer))), text


def test_imports_are_absolute_and_name_what_they_take() -> None:
    assert not [
        f"{module}, line {node.lineno}"
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.level or any(alias.name == "*" for alias in node.names))
    ]


def test_a_public_name_of_the_data_sets_is_defined_once() -> None:
    owners = defaultdict(list)
    for module, tree in trees().items():
        for node in tree.body if top(module) == "datasets" else []:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                owners[node.name].append(module)
    of_scripts = {"main", "parse_args"}
    assert not {
        name: found
        for name, found in owners.items()
        if len(found) > 1 and not name.startswith("_") and name not in of_scripts
    }


@pytest.mark.parametrize("folder", MAPPED)
def test_a_map_names_every_file_of_its_folder_once(folder: str) -> None:
    (docstring,) = trees()[folder.replace("/", ".")].body  # and no imports
    assert isinstance(docstring, ast.Expr)
    lines = [line for line in ast.literal_eval(docstring.value).splitlines() if line[:1] == "-"]
    matches = [re.fullmatch(r"- ``([\w.]+/?)``: \S.*\.", line) for line in lines]
    named = [match[1] if match else None for match in matches]
    modules = [path.name for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"]
    packages = [f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")]
    assert None not in named, "- ``name``: Sentence."
    assert sorted(map(str, named)) == sorted(modules + packages)


@pytest.mark.parametrize("package", PACKAGES)
def test_our_package_wins_over_an_installed_one_of_its_name(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).parent == ROOT / package


LAST_LINES = re.compile(r'\nif __name__ == "__main__":\n( {4}.*\n)+$')
SCRIPTS = [
    name
    for name, path in MODULES.items()
    if top(name) in (*PACKAGES, "checkpoints") and LAST_LINES.search(path.read_text())
    if not name.endswith(".__main__")  # starts by python -m only
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_in_packages_extend_the_path_before_they_import_ours(script: str) -> None:
    """``python datasets/x.py`` starts with ``datasets/`` on the path, not with the root."""
    body = trees()[script].body
    shim = next(node.lineno for node in body if ast.unparse(node).startswith("if not __package__"))
    assert all(
        node.lineno > shim
        for node in body
        if isinstance(node, ast.ImportFrom) and top(str(node.module)) in OURS
    )
