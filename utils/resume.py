"""Resume a run from its checkpoint alone: its flags are stored next to the checkpoint."""

import json
import sys
from argparse import SUPPRESS, Action, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError, printable, quoted
from utils.files import check_checkpoint
from utils.launchers import launched_rank

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # the newest checkpoint, and the one before it
ARGUMENTS = "arguments.json"  # next to the checkpoints, as ``utils.report.provenance`` returns it
# Flags that a resumed run may change: its machine, its length and its output. The number of samples
# per step is compared with that of the checkpoint.
MAY_CHANGE = {
    *("data_dir", "num_workers", "batch_size", "gpus", "accelerator", "num_nodes"),
    *("num_processes", "precision", "max_epochs", "log_dir", "debug"),
    *("resume", "resume_from_checkpoint"),
}
# A flag that one script alone has, in the order in which they are looked for.
_SCRIPTS = {
    "data_mode": "main_pretrain.py",
    "labels_per_class": "main_eurosat.py",
    "num_classes": "main_bigearthnet.py",
    "pos_weight": "main_oscd.py",
}
# These belong to one start, not to the run.
_NOT_KEPT = {"log_dir", "debug", "resume", "resume_from_checkpoint", "save_predictions"}
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
        SystemExit: ``--resume auto`` found a finished run.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    only = ArgumentParser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    only.add_argument("--resume_from_checkpoint", type=Path, nargs="?")
    only.add_argument("--resume", nargs="?")
    only.add_argument("--log_dir", type=Path, default=parser.get_default("log_dir"))
    flags = vars(only.parse_known_args(given)[0])
    path: Path | None = flags.get("resume_from_checkpoint")
    done = 0
    if flags.get("resume") == "auto" and path is None:
        path, done = _newest_checkpoint(flags["log_dir"])
        given += [] if path is None else ["--resume_from_checkpoint", str(path)]
    check_checkpoint("resume_from_checkpoint", path)
    if path is None or not (path.parent / ARGUMENTS).is_file():
        return given
    stored, allowed = _stored_flags(parser, path)
    allowed |= {*MAY_CHANGE, *may_change}
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
                f"{_shown(before[name])}: leave it out, or give a new run its own --log_dir"
            )
    if done and done >= now["max_epochs"]:
        print(f"{path} has all {done} epochs: nothing is left to do")
        sys.exit(0)
    return [*stored, *given]


def resumed_run_dir(args: Namespace) -> Path | None:
    """Return the folder of the run whose newest checkpoint is resumed; None starts a new folder."""
    path: Path | None = args.resume_from_checkpoint
    if path is None or args.debug or path.name not in (LAST, PREVIOUS):
        return None
    if not (path.parent / ARGUMENTS).is_file():
        return None
    return path.parent.parent


def _stored_flags(parser: ArgumentParser, path: Path) -> tuple[list[str], set[str]]:
    """Return the flags of a run as a command line, and those that name only its repetition."""
    arguments = _read_arguments(path.parent / ARGUMENTS)
    actions = {action.dest: action for action in parser._actions}  # argparse has no public list
    for name, script in _SCRIPTS.items():
        if name in arguments and name not in actions:
            raise UserError(f"{path} is of a run of {script}: resume it with that script")
    repeated = _REPETITION if arguments.get("num_seeds", 1) != 1 else set()
    stored = [
        word
        for name, value in arguments.items()
        if name in actions and name not in repeated | _NOT_KEPT and value is not None
        for word in _as_flag(actions[name], value)
    ]
    return stored, set(repeated)


def _newest_checkpoint(log_dir: Path) -> tuple[Path | None, int]:
    """Return the newest readable checkpoint of the newest pre-training, and its whole epochs."""
    pattern = "pretrain-*/version_*/checkpoints"
    found = [path for name in (LAST, PREVIOUS) for path in log_dir.glob(f"{pattern}/{name}")]
    if not found:
        return None, 0
    folder = max(found, key=lambda path: path.lstat().st_mtime).parent
    from utils.checkpoint import read_checkpoint, whole_epochs  # need torch

    for path in filter(Path.exists, (folder / LAST, folder / PREVIOUS)):
        try:
            checkpoint = read_checkpoint(path)
            done = whole_epochs(path, checkpoint)
        except UserError as error:
            _say(f"not resumed: {error}")
        else:
            _say(f"resuming {path} after step {checkpoint.get('global_step')}")
            return path, done
    raise UserError(f"no checkpoint in {folder} can be read: use another --log_dir")


def _say(text: str) -> None:
    """Print a line once, not in every process."""
    if launched_rank() == 0:
        print(printable(text), file=sys.stderr)


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
