"""Flags from a YAML file, and the flags of a run as such a file."""

import json
import sys
from argparse import Action, ArgumentParser, BooleanOptionalAction
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from utils.errors import UserError, listed, quoted
from utils.files import check_exists, read_file, read_list, written_whole
from utils.flags import Parser

CONFIG = "config.yaml"
CONFIG_HELP = "YAML file with values of flags (batch_size: 64); the command line wins."
# Flags of one start, not of the work: a file that says them would change what is resumed.
OF_A_START = {"config", "resume", "resume_from_checkpoint"}
# A run does not keep these either: where it writes, and whether.
NOT_KEPT = OF_A_START | {"debug", "dry_run", "log_dir", "no_report", "save_predictions"}
_MAX_BYTES = 2**16
# YAML 1.1's booleans, for switches; elsewhere they are text, as all other plain words.
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


class _Loader(yaml.SafeLoader):
    """Text, as on a command line, whose flags convert it: YAML 1.1 takes 010 for 8, 1e-3 for text.

    Neither aliases, by which a small file becomes huge, nor types ("!!int 8"), nor repeated keys.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in found if tag == "tag:yaml.org,2002:null"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*)")
        if tag := self.peek_event().tag:
            raise yaml.YAMLError(f"it has a type ({tag})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(str(key.value) for key, _ in node.value)
        if repeated := [key for key, count in counts.items() if count > 1]:
            raise yaml.YAMLError(f"it has {quoted(repeated[0])} twice")
        return super().construct_mapping(node, deep)


def with_config(parser: Parser, argv: Sequence[str] | None) -> list[str]:
    """Put the flags in the file of ``--config`` before those of the command line, which win.

    Args:
        parser: Parser of the script, which checks each value of the file by its flag.
        argv: Command line, or None for that of the process.

    Raises:
        UserError: There are two files, or the file cannot be read, or has unknown flags or a value
            of another type.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    only = ArgumentParser(add_help=False, allow_abbrev=False)
    only.add_argument("--config", type=Path, nargs="?", action="append", default=[])
    paths = [path for path in only.parse_known_args(given)[0].config if path is not None]
    if not paths:
        return given
    if len(paths) > 1:
        names = " and ".join(map(str, paths))
        raise UserError(f"--config takes one file, not {names}: join them, or name one")
    check_exists("config", paths[0])
    content = _read(paths[0])
    _check_names(parser, paths[0], content)
    flags, words = parser.flags(), list[str]()
    for key, value in content.items():
        words += _checked(flags[key], value, f"{paths[0]}: {key}")
    return [*words, *given]


def write_config(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Write the flags of a run as a file for ``--config``, which repeats it.

    Args:
        folder: Folder of the file.
        arguments: All flags of the run by name; those that are None were not given.
    """
    kept = {k: value for k, value in arguments.items() if k not in NOT_KEPT and value is not None}
    plain = json.loads(json.dumps(kept, default=str))
    with written_whole(folder / CONFIG) as partial:
        partial.write_text("# --config reads these flags of the run.\n" + yaml.safe_dump(plain))


def as_words(flag: Action, value: Any) -> list[str]:
    """Return a value as words of a command line.

    Args:
        flag: Flag that takes it.
        value: Plain value, or a list of them.
    """
    name = flag.option_strings[0]
    if isinstance(flag, BooleanOptionalAction):
        return [name if value else flag.option_strings[1]]
    if flag.nargs == 0:
        return [name] if value else []
    if flag.nargs is None:
        return [f"{name}={value}"]
    return [name, *map(str, value if isinstance(value, list) else [value])]


def _read(path: Path) -> dict[Any, Any]:
    text = read_list(read_file(path, _MAX_BYTES), path)
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = quoted(" ".join(str(error).split()) or type(error).__name__, 200)
        raise UserError(f"{path} cannot be read as YAML, {reason}: correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no flags: write lines of NAME: VALUE")
    return content


def _check_names(parser: Parser, path: Path, content: Mapping[Any, Any]) -> None:
    """Refuse all keys that are not flags of the script, in one sentence."""
    flags = parser.flags()
    unknown = [str(key) for key in content if key not in flags]
    if len(unknown) == 1:
        name = quoted(unknown[0], 40)
        # Keys have no dashes.
        guess = parser.suggestion(unknown[0]).replace("--", "")
        raise UserError(f"{path}: {name} is not a flag{guess}")
    if unknown:
        raise UserError(
            f"{path}: {listed(unknown, len(unknown))} are not flags of this script: "
            "correct or remove them, or run the script that the file is for"
        )
    for key in content:
        if key in OF_A_START:
            raise UserError(f"{path}: {key} belongs to one start: give it on the command line")


def _checked(flag: Action, value: Any, name: str) -> list[str]:
    """Return the value as words, which its flag alone accepts."""
    if value is None:
        return []  # as in arguments.json
    values = value if isinstance(value, list) else [value]
    is_text = all(isinstance(each, str) for each in values)
    if flag.nargs == 0 or isinstance(flag, BooleanOptionalAction):
        if values is value or not is_text or value.lower() not in (*_TRUE, *_FALSE):
            raise UserError(f"{name} must be true or false, not {quoted(str(value))}")
        value = value.lower() in _TRUE
    elif not is_text or (flag.nargs is None and values is value):
        what = "a value" if flag.nargs is None else "values"
        raise UserError(f"{name} must be {what}, not {quoted(str(value))}")
    alone = Parser()
    alone._add_action(flag)  # argparse has no public way to check a single flag
    try:
        words = as_words(flag, value)
        alone.parse_args(words)
    except UserError as error:
        reason = str(error).removeprefix(f"argument {flag.option_strings[0]}: ")
        raise UserError(f"{name}: {reason}") from error
    return words
