"""Private names of libraries: which ones the code uses, why, and that the libraries have them.

A release that renames one fails here, and not in the middle of a training.
"""

import argparse
import ast
import io
import re
import tokenize
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from pytorch_lightning import Trainer

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("datasets", "models", "utils", "benchmarks", "checkpoints", "examples")
PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
DOCUMENTED = {"_exit", "_replace"}  # of os and of named tuples


def module(name: str) -> Callable[[], object]:
    return lambda: pytest.importorskip(name)


def set_in_setup() -> object:
    """Return an object with the names that LitData's loader has once it is set up."""
    loader = pytest.importorskip("litdata.streaming.item_loader").BaseItemLoader
    return argparse.Namespace(**dict.fromkeys(loader.setup.__code__.co_names))


def base_of_loaders() -> object:
    return pytest.importorskip("litdata.streaming.item_loader").BaseItemLoader


# Each with an object that has it.
PRIVATE: dict[str, Callable[[], object]] = {
    "_ArgumentGroup": lambda: argparse,
    "_action_groups": ArgumentParser,
    "_actions": ArgumentParser,
    "_add_action": ArgumentParser,
    "_get_help_string": lambda: argparse.HelpFormatter,
    "_option_string_actions": ArgumentParser,
    "_content": requests.Response,
    "_content_consumed": requests.Response,
    "_env": module("rasterio"),
    "_OBSTORE_CLIENT_OPTIONS": module("litdata.streaming.downloader"),
    "_chunks": set_in_setup,
    "_wait_until_chunk_ready": base_of_loaders,
    "_cdata": lambda: torch.zeros(1).untyped_storage(),
    "_foreach_copy_": lambda: torch,
    "_foreach_lerp_": lambda: torch,
    "_metadata": lambda: torch.nn.ReLU().state_dict(),
    "_python_dispatch": module("torch.utils"),
    "_pytree": module("torch.utils"),
    "_rebuild_parameter": module("torch._utils"),
    "_rebuild_tensor_v2": module("torch._utils"),
    "_signal_connector": lambda: Trainer(logger=False, barebones=True),
    "_schema": lambda: torch.ops.aten.add.Tensor,
    "_subclasses": lambda: torch,
    "_utils": lambda: torch,
}


def private(names: str | None) -> list[str]:
    """Return the private ones of dotted names."""
    parts = (names or "").split(".")
    return [part for part in parts if re.fullmatch(r"_[A-Za-z]\w*(?<!__)", part)]


def own_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the private names that our code defines for itself.

    A private function that nothing here calls is called by a library whose own it replaces.
    """
    defined, functions, used = set[str](), set[str](), set[str]()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            functions |= {node.name}
        elif isinstance(node, ast.Name):
            (defined if isinstance(node.ctx, ast.Store) else used).add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            used |= {node.attr}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            defined |= {node.attr}
    return defined | functions & used


def names_in(node: ast.AST) -> list[str]:
    """Return private names in an attribute, a method, an import, or a text that gives a name."""
    if isinstance(node, ast.Attribute):
        return private(node.attr)
    if isinstance(node, ast.FunctionDef):
        return private(node.name)
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
        return [name for dotted in names for name in private(dotted)]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr", "setattr"}:
        return [name for text in map(ast.unparse, node.args) for name in private(text.strip("'"))]
    text = str(node.value) if isinstance(node, ast.Constant) else ""
    if re.fullmatch(r"[a-z]\w*(\.\w+)+", text) and find_spec(text.partition(".")[0]):
        return private(text)
    return []


def uses(nodes: list[ast.AST], own: set[str]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield private names of libraries with the innermost statements that they are in."""
    statements = [node for node in nodes if isinstance(node, ast.stmt)]
    for node in nodes:
        for name in {*names_in(node)} - own - DOCUMENTED:
            line: int = getattr(node, "lineno", 0)
            around = (s for s in statements if s.lineno <= line <= (s.end_lineno or 0))
            yield name, max(around, key=lambda statement: statement.lineno)


def comment_lines(source: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not re.match("# (type|noqa)", token.string)
    }


def test_private_names_of_libraries_are_those_of_the_list_and_each_has_a_comment() -> None:
    sources = {path: path.read_text() for path in [*sorted(ROOT.glob("main_*.py")), *PATHS]}
    trees = {path: list(ast.walk(ast.parse(source))) for path, source in sources.items()}
    own, found, bare = own_names(chain(*trees.values())), set(), list[str]()
    for path, nodes in trees.items():
        comments, seen = comment_lines(sources[path]), set[str]()
        for name, statement in uses(nodes, own):
            last = statement.lineno if hasattr(statement, "body") else statement.end_lineno or 0
            lines = range(statement.lineno - 1, last + 1)  # with the line above
            if name not in seen and not comments.intersection(lines):
                bare.append(f"{path.relative_to(ROOT)}:{statement.lineno} {name}")
            seen.add(name)
        found |= seen
    assert found == PRIVATE.keys()
    assert not bare, "say in a comment why there is no public way"


@pytest.mark.parametrize("name", PRIVATE)
def test_libraries_still_have_the_private_names(name: str) -> None:
    owner: Any = PRIVATE[name]()
    assert hasattr(owner, name) or find_spec(f"{owner.__name__}.{name}")
