"""Resume a run from its checkpoint alone: its flags are stored next to the checkpoint."""

import json
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.config_file import NOT_KEPT, as_words, with_config, write_config
from utils.errors import UserError, printable, quoted
from utils.files import check_checkpoint
from utils.flags import Parser
from utils.launchers import launched_rank
from utils.report import provenance, run_dir_of_rank, write_json

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # the newest checkpoint, and the one before it
ARGUMENTS = "arguments.json"  # next to the checkpoints, as ``utils.report.provenance`` returns it
# Flags that a resumed run may change: its machine, its length and its output. The number of samples
# per step is compared with that of the checkpoint.
MAY_CHANGE = {
    *("data_dir", "num_workers", "batch_size", "gpus", "accelerator", "num_nodes"),
    *("num_processes", "precision", "max_epochs", "log_dir", "debug", "no_report"),
    *("save_every_minutes", "resume", "resume_from_checkpoint", "config", "logger", "dry_run"),
}
# A flag that one script alone has, in the order in which they are looked for.
_SCRIPTS = {
    "data_mode": "main_pretrain.py",
    "labels_per_class": "main_eurosat.py",
    "num_classes": "main_bigearthnet.py",
    "pos_weight": "main_oscd.py",
}
# These name the repetition of a checkpoint; earlier versions stored the values of the whole run.
_REPETITION = {"num_seeds", "seed", "train_frac", "method"}


def with_flags_of_run(
    parser: Parser,
    argv: Sequence[str] | None,
    may_change: Collection[str] = (),
    runs: str | None = None,
) -> list[str]:
    """Put the stored flags of the run to resume before those of ``--config`` and ``argv``.

    Args:
        parser: Parser of the script; it checks stored flags as it checks given ones.
        argv: Command line, or None for that of the process.
        may_change: Flags that may have another value, besides ``MAY_CHANGE``.
        runs: Pattern of the folders of an evaluation's runs, whose trainings ``--resume auto``
            resumes one by one; None for a pre-training.

    Returns:
        A complete command line; ``argv`` itself if nothing is resumed or no flags are stored.

    Raises:
        UserError: A flag contradicts the run.
        SystemExit: ``--resume auto`` found a finished run.
    """
    given = with_config(parser, argv)
    flags = _resume_flags(parser, given)
    path: Path | None = flags.get("resume_from_checkpoint")
    is_auto = flags.get("resume") == "auto" and path is None and "--debug" not in given
    if is_auto and runs is not None:
        run_dir = _newest_run(flags["log_dir"], runs)
        return given if run_dir is None else _with_flags_of_grid(parser, run_dir, given, may_change)
    check_checkpoint("resume_from_checkpoint", path)
    folder = _newest_checkpoints(flags["log_dir"]) if is_auto else path and path.parent
    if folder is None:
        return given
    stored: list[str] = []
    if (folder / ARGUMENTS).is_file():  # checked before anything is printed
        stored = _checked_flags(parser, folder / ARGUMENTS, given, {*may_change})
    else:
        say(f"{folder / ARGUMENTS} is missing: the flags of this command alone count")
    if not is_auto:
        return [*stored, *given]
    path, done = _newest_checkpoint(folder)
    given += ["--resume_from_checkpoint", str(path)]
    max_epochs = vars(parser.parse_args([*stored, *given]))["max_epochs"]
    if done and done >= max_epochs:
        _check_end(path, done, max_epochs)
    return [*stored, *given]


def resumed_run_dir(args: Namespace) -> Path | None:
    """Return the folder of the run whose newest checkpoint is resumed; None starts a new folder."""
    path: Path | None = args.resume_from_checkpoint
    if path is None or args.debug or path.name not in (LAST, PREVIOUS):
        return None
    if args.resume != "auto" and not (path.parent / ARGUMENTS).is_file():
        return None
    return path.parent.parent


def newest_resumable(
    folder: Path, check: Callable[[Path], object], *, first: str = LAST
) -> Path | None:
    """Return the newest checkpoint that can be resumed; None if the folder has none.

    Args:
        folder: Folder of the checkpoints.
        check: Raises a ``UserError`` for a checkpoint that cannot be resumed; its text is printed.
        first: Name of the first one to check.

    Raises:
        UserError: None of the checkpoints can be resumed.
    """
    names = (LAST, PREVIOUS) if first == LAST else (PREVIOUS,)
    found = [folder / name for name in names if (folder / name).exists()]
    for path in found:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a checkpoint: move it away")
        try:
            check(path)
        except UserError as error:
            say(f"not resumed: {error}")
        else:
            if path != found[0]:
                say(f"resuming {path} instead")
            return path
    if found:
        raise UserError(f"no checkpoint in {folder} can be resumed: use another --log_dir")
    return None


def evaluation_run_dir(args: Namespace, name: str, rank: int) -> Path | None:
    """Return the folder of an evaluation that ``--resume auto`` resumes, or create one.

    Args:
        args: Flags of the run.
        name: Name of the script's runs.
        rank: Rank of this process; the first one creates the folder, and stores the flags there.
    """
    if args.resume == "auto" and not args.debug and (found := _newest_run(args.log_dir, name)):
        return found
    run_dir = run_dir_of_rank(args, name, rank)
    if run_dir is not None and rank == 0:
        write_json(run_dir / ARGUMENTS, provenance(args))
        write_config(run_dir, vars(args))
    return run_dir


def _resume_flags(parser: Parser, given: Sequence[str]) -> dict[str, Any]:
    """Return only the flags that name what is resumed."""
    only = ArgumentParser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    only.add_argument("--resume_from_checkpoint", type=Path, nargs="?")
    only.add_argument("--resume", nargs="?")
    only.add_argument("--log_dir", type=Path, default=parser.get_default("log_dir"))
    return vars(only.parse_known_args(given)[0])


def _with_flags_of_grid(
    parser: Parser, run_dir: Path, given: Sequence[str], may_change: Collection[str]
) -> list[str]:
    """Put the stored flags of an evaluation before the given ones; leave if it is finished."""
    may_change = {*may_change, "num_seeds"}
    stored = _checked_flags(parser, run_dir / ARGUMENTS, given, may_change, is_grid=True)
    now, before = vars(parser.parse_args([*stored, *given])), _results(run_dir).get("arguments", {})
    lengths = ("max_epochs", "finetune_epochs", "num_seeds")
    if before and all(now.get(name) == before.get(name) for name in lengths):
        _leave_finished(f"{run_dir} has all results")
    say(f"resuming {run_dir}")
    return [*stored, *given]


def _checked_flags(
    parser: Parser,
    file: Path,
    given: Sequence[str],
    may_change: Collection[str],
    *,
    is_grid: bool = False,
) -> list[str]:
    """Return the flags in a file as a command line, unless given ones contradict them."""
    stored, allowed = _stored_flags(parser, file, is_grid=is_grid)
    allowed |= {*MAY_CHANGE, *may_change}
    try:
        before = vars(parser.parse_args(stored))
    except UserError as error:
        raise UserError(
            f"{file} does not hold the flags of a run, {error}: move it away, and give them all"
        ) from error
    now = vars(parser.parse_args([*stored, *given]))
    wrong = [name for name in before if name not in allowed and before[name] != now[name]]
    if wrong:
        flags = ", ".join(f"--{name} {_shown(now[name])}" for name in wrong)
        verb, them = ("contradicts", "it") if len(wrong) == 1 else ("contradict", "them")
        raise UserError(
            f"{flags} {verb} the run of {file.parent}, which has "
            f"{', '.join(_shown(before[name]) for name in wrong)}: leave {them} out, or give a "
            "new run its own --log_dir"
        )
    return stored


def _stored_flags(parser: Parser, file: Path, *, is_grid: bool) -> tuple[list[str], set[str]]:
    """Return the flags of a run as a command line, and those that name only its repetition."""
    arguments = _read_arguments(file)
    actions = parser.flags()
    for name, script in _SCRIPTS.items():
        if name in arguments and name not in actions:
            raise UserError(f"{file} is of a run of {script}: resume it with that script")
    repeated = set[str]() if is_grid or arguments.get("num_seeds", 1) == 1 else _REPETITION
    stored = [
        word
        for name, value in arguments.items()
        if name in actions and name not in repeated | NOT_KEPT and value is not None
        for word in as_words(actions[name], value)
    ]
    return stored, set(repeated)


def _results(run_dir: Path) -> dict[str, Any]:
    """Return the content of ``results.json`` if the run was finished; else an empty dict."""
    try:
        results = json.loads((run_dir / "results.json").read_text())
        return results if results["finished"] and isinstance(results["metrics"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _leave_finished(what: str) -> NoReturn:
    print(f"{what}: nothing is left to do")
    sys.exit(0)


def _check_end(path: Path, done: int, max_epochs: int) -> None:
    """Leave a finished run alone, and refuse to end one before the epochs that it has begun."""
    from utils.checkpoint import check_not_shorter  # needs torch

    if _results(path.parent.parent).get("metrics", {}).get("epochs") == done:
        _leave_finished(f"{path} has all {done} epochs")
    check_not_shorter(path, max_epochs)
    say(f"{path} has all {done} epochs: only the results are written")


def _newest_run(log_dir: Path, runs: str) -> Path | None:
    """Return the newest folder of an evaluation, of those that match a pattern."""
    found = sorted(log_dir.glob(f"{runs}/version_*"), key=lambda path: path.lstat().st_mtime)
    if not found or (found[-1] / ARGUMENTS).is_file():
        return found[-1] if found else None
    say(f"{found[-1] / ARGUMENTS} is missing: a new run begins")
    return None


def _newest_checkpoints(log_dir: Path) -> Path | None:
    """Return the folder of the checkpoints of the newest pre-training; None if there is none."""
    pattern = "pretrain-*/version_*/checkpoints"
    found = [path for name in (LAST, PREVIOUS) for path in log_dir.glob(f"{pattern}/{name}")]
    return max(found, key=lambda path: path.lstat().st_mtime).parent if found else None


def _newest_checkpoint(folder: Path) -> tuple[Path, int]:
    """Return the newest readable checkpoint of a pre-training, and its whole epochs."""
    from utils.checkpoint import read_checkpoint, whole_epochs  # need torch

    path = newest_resumable(folder, lambda path: whole_epochs(path, read_checkpoint(path)))
    assert path is not None  # the folder was found by it
    return path, whole_epochs(path, read_checkpoint(path))


def say(text: str) -> None:
    """Print a line to the standard error, once, not in every process."""
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


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return quoted(" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
