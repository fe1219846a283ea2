"""Resume a run from its checkpoint alone: its flags are stored next to the checkpoint."""

import json
import sys
from argparse import SUPPRESS, Action, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError, quoted
from utils.files import check_checkpoint, remove_partials

ARGUMENTS = "arguments.json"  # next to the checkpoints, as ``utils.report.provenance`` returns it
# Flags that a resumed run may change: its machine, its length and its output. The number of samples
# per step is compared with that of the checkpoint.
MAY_CHANGE = {
    *("data_dir", "num_workers", "batch_size", "gpus", "accelerator", "num_nodes"),
    *("num_processes", "precision", "max_epochs", "log_dir", "debug", "resume_from_checkpoint"),
}
# A flag that one script alone has, in the order in which they are looked for.
_SCRIPTS = {
    "data_mode": "main_pretrain.py",
    "labels_per_class": "main_eurosat.py",
    "num_classes": "main_bigearthnet.py",
    "pos_weight": "main_oscd.py",
}
# These belong to one start, not to the run.
_NOT_KEPT = {"log_dir", "debug", "resume_from_checkpoint", "save_predictions"}
# These name the repetition of a checkpoint; earlier versions stored the values of the whole run.
_REPETITION = {"num_seeds", "seed", "train_frac", "method"}


def with_flags_of_run(
    parser: ArgumentParser, argv: Sequence[str] | None, may_change: Collection[str] = ()
) -> list[str]:
    """Put the stored flags of the run to resume before those of ``argv``.

    Args:
        parser: Parser of the script; it checks stored flags as it checks given ones.
        argv: Command line, or None for that of the process.
        may_change: Flags that may have another value, besides ``MAY_CHANGE``.

    Returns:
        A complete command line; ``argv`` itself if nothing is resumed or no flags are stored.

    Raises:
        UserError: A flag contradicts the run.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    only = ArgumentParser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    only.add_argument("--resume_from_checkpoint", type=Path, nargs="?")
    path: Path | None = vars(only.parse_known_args(given)[0]).get("resume_from_checkpoint")
    check_checkpoint("resume_from_checkpoint", path)
    if path is None or not (path.parent / ARGUMENTS).is_file():
        return given
    arguments = _read_arguments(path.parent / ARGUMENTS)
    allowed = {*MAY_CHANGE, *may_change}
    actions = {action.dest: action for action in parser._actions}  # argparse has no public list
    for name, script in _SCRIPTS.items():
        if name in arguments and name not in actions:
            raise UserError(f"{path} is of a run of {script}: resume it with that script")
    if arguments.get("num_seeds", 1) != 1:
        arguments = {name: arguments[name] for name in arguments if name not in _REPETITION}
        allowed |= _REPETITION
    stored = [
        word
        for name, value in arguments.items()
        if name in actions and name not in _NOT_KEPT and value is not None
        for word in _as_flag(actions[name], value)
    ]
    try:
        before = vars(parser.parse_args(stored))
    except UserError as error:
        raise UserError(
            f"{path.parent / ARGUMENTS} does not hold the flags of a run, {error}: move it away, "
            "and give them all"
        ) from error
    now = vars(parser.parse_args([*stored, *given]))
    for name in before.keys() - allowed:
        if before[name] != now[name]:
            raise UserError(
                f"--{name} {_shown(now[name])} contradicts the run of {path}, which has "
                f"{_shown(before[name])}: leave it out"
            )
    return [*stored, *given]


def resumed_run_dir(args: Namespace) -> Path | None:
    """Return the folder of the run whose ``last.ckpt`` is resumed; None starts a new folder."""
    path: Path | None = args.resume_from_checkpoint
    if path is None or args.debug or path.name != "last.ckpt":
        return None
    if not (path.parent / ARGUMENTS).is_file():
        return None
    remove_partials(path)  # of a run that was killed while it wrote
    return path.parent.parent


def _read_arguments(path: Path) -> dict[str, Any]:
    try:
        arguments = json.loads(path.read_text())["arguments"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise UserError(f"{path} does not hold the flags of a run: move it away, and give them all")
    return arguments


def _as_flag(action: Action, value: Any) -> list[str]:
    """Write a stored value as words of a command line."""
    flag = action.option_strings[0]
    if isinstance(action, BooleanOptionalAction):
        return [flag if value else action.option_strings[1]]
    if action.nargs == 0:
        return [flag] if value else []
    if action.nargs is None:
        return [f"{flag}={value}"]
    return [flag, *map(str, value if isinstance(value, list) else [value])]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return quoted(" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
