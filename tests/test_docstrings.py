"""Every argument of a public function, and every field of a public record, is described."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.references.source_code import MODULES, top, trees

# Methods that a library calls; its documentation describes their arguments.
HOOKS = re.compile(
    r"on_\w+|(training|validation)_step|(save|load)_checkpoint|parse_known_args|handle_error|seek"
    r"|setup|load_item_from_chunk|encode_data|delete"
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(autouse=True, scope="module")
def _no_trees() -> Iterator[None]:
    """Give the memory back, also that of the test of the architecture, which comes before."""
    yield
    trees.cache_clear()


def public_functions() -> Iterator[tuple[str, ast.ClassDef | None, Function]]:
    """Yield module, class and function of all public functions, methods and constructors.

    Those of the four scripts take the flags, and are called by the script alone.
    """
    for module, tree in trees().items():
        is_library = top(module) != "tests" and not module.startswith("main_")
        for node in tree.body if is_library else []:
            owner = node if isinstance(node, ast.ClassDef) else None
            for function in owner.body if owner else [node]:
                if isinstance(function, Function) and is_public(owner, function):
                    yield module, owner, function


def is_public(owner: ast.ClassDef | None, function: Function) -> bool:
    if owner is None:
        # The docstring of the module describes the arguments that kernels share.
        is_kernel = "triton.jit" in map(ast.unparse, function.decorator_list)
        return not function.name.startswith("_") and not is_kernel
    is_hook = bool(owner.bases and HOOKS.fullmatch(function.name))
    is_named = not function.name.startswith("_") or function.name in ("__init__", "__call__")
    return is_named and not is_hook and not owner.name.startswith("_")


def parameters(owner: ast.ClassDef | None, function: Function) -> list[str]:
    """Return the names in order, without ``self`` and those of underscores, which are not used."""
    args = function.args
    each = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    is_bound = owner and "staticmethod" not in map(ast.unparse, function.decorator_list)
    names = [one.arg for one in each if one is not None][bool(is_bound) :]
    return [name for name in names if name.strip("_")]


def documented(owner: ast.ClassDef | None, function: Function) -> list[str]:
    """Return the names in the section Args, which for a constructor is that of the class."""
    text = ast.get_docstring(function) or ""
    if owner and function.name == "__init__":
        text += "\n\n" + (ast.get_docstring(owner) or "")
    sections = re.findall(r"^Args:\n((?: .*\n?|\n)+)", text, re.M)
    return re.findall(r"^    \**(\w+):", "".join(sections), re.M)


def test_public_functions_document_each_parameter_in_order() -> None:
    """Or refer to a function that has the same: "Arguments as in ``name``."."""
    complete, others = set(), {}
    for module, owner, function in public_functions():
        name = f"{owner.name}.{function.name}" if owner else function.name
        names = tuple(parameters(owner, function))
        if documented(owner, function) == list(names):
            complete.add((name.removesuffix(".__call__"), names))
        elif len(names) > 1:
            text = ast.get_docstring(function) or ""
            reference = re.search(r"[Aa]rguments as in\s+``([\w.]+)``", text)
            others[f"{module}.{name}"] = (reference[1] if reference else "", names)
    assert not {name for name, same in others.items() if same not in complete}


def test_public_functions_that_refuse_input_say_so() -> None:
    silent = []
    for module, owner, function in public_functions():
        texts = [ast.get_docstring(node) for node in (function, owner) if node is not None]
        text = "\n".join(filter(None, texts))
        nodes = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
        refuses = any(node and ast.unparse(node).startswith("UserError(") for node in nodes)
        is_described = text.startswith("Refuse") or "UserError" in text or function.name == "main"
        if refuses and texts[0] and not is_described:
            silent.append(f"{module}.{function.name}")
    assert silent == []


def test_fields_of_public_records_have_a_comment_or_are_named_in_the_docstring() -> None:
    """Or their value is made from the help text of a flag."""
    bare = []
    for module, tree in trees().items():
        records = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for record in records if top(module) != "tests" else []:
            header = map(ast.unparse, [*record.bases, *record.decorator_list])
            is_record = any(text.startswith(("NamedTuple", "dataclass")) for text in header)
            if not is_record or record.name.startswith("_"):
                continue
            lines = MODULES[module].read_text().splitlines()
            for field in record.body:
                if isinstance(field, ast.AnnAssign):
                    name = ast.unparse(field.target)
                    above, *own = lines[field.lineno - 2 : field.end_lineno]
                    has_comment = "#" in "".join(own) or above.lstrip().startswith("#")
                    is_named = re.search(rf"\b{name}\b", ast.get_docstring(record) or "")
                    if not (name[0] == "_" or has_comment or is_named or "_flag(" in own[0]):
                        bare.append(f"{module}.{record.name}.{name}")
    assert bare == []
