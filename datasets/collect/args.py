"""Command line of the downloader: what a plan records, how it is fetched, and which step."""

import os
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets.bands import ALL_BANDS
from datasets.collect.settings import (
    COLLECTIONS,
    DEFAULTS,
    EARTH_SEARCH,
    PAPER,
    Fetching,
    Settings,
    check_values,
)
from utils.cli import PROTOCOL_HELP
from utils.errors import UserError, quoted
from utils.flags import Parser, check_positive

# Title of the group of flags in --help that begins with a flag.
_GROUPS = {
    "num_locations": "where and when (recorded in the plan)",
    "source": "which scenes (recorded in the plan)",
    "bands": "what is written (recorded in the plan)",
    "num_workers": "fetching",
}
_STEPS: dict[str, dict[str, Any]] = {
    "--plan": {"action": "store_true", "help": "Choose places, estimate the cost, and stop."},
    "--status": {"action": "store_true", "help": "Print the progress of all shards."},
    "--verify": {"action": "store_true", "help": "Compare all files with the journal."},
    "--probe": {"type": int, "metavar": "N", "help": "Time N patches; write no files."},
    "--retry": {
        "choices": ["failed", "all"],
        "help": "Request refused places again; all: also those without clear scenes.",
    },
}
# A task's index, and what describes all tasks: slurm.schedmd.com/job_array.html, sbatch.html.
_SLURM = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT"))
_MOST_SHARDS = 10_000


def _path(text: str) -> Path:
    """Refuse an empty path, the value of a shell variable that is not set."""
    if not text:
        raise ArgumentTypeError("an empty path: name a file or folder")
    return Path(text)


def build_parser(description: str | None) -> Parser:
    """Create the parser of the flags that ``Settings`` and ``Fetching`` declare, and of steps."""
    parser = Parser(description)
    add = parser.add_argument
    add("--save_path", type=_path, required=True, help="Folder of the data set.")
    steps = parser.add_argument_group("steps, instead of all").add_mutually_exclusive_group()
    for flag, options in _STEPS.items():
        steps.add_argument(flag, **options)
    for one in (*fields(Settings), *fields(Fetching)):
        if one.name in _GROUPS:
            add = parser.group(_GROUPS[one.name]).add_argument
        options = dict(one.metadata)
        allowed, kind = options.pop("allowed"), type(one.default)
        if kind in (int, float):
            options["type"] = kind
        elif allowed:
            options["choices"] = allowed
        elif one.name in ("indices_file", "service_account_key"):
            options["type"] = _path
        add(options.pop("flag", f"--{one.name}"), dest=one.name, default=one.default, **options)
    add = parser.group(_GROUPS["source"]).add_argument
    add("--protocol", choices=["corrected", "paper"], default="corrected", help=PROTOCOL_HELP)
    return parser


def parse_args(description: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line.

    ``given`` of the result names the settings that were given: a plan that exists decides the
    others. ``shard`` is the number of this part, and of all.

    Args:
        description: Docstring of the script.
        argv: Arguments; None for those of the process.
    """
    parser = build_parser(description)
    on_command_line = parser.parse_given(argv)
    given = on_command_line.keys() & (vars(DEFAULTS).keys() - {"preview"})
    if on_command_line.get("protocol") == "paper":
        given |= PAPER.keys()
        parser.set_defaults(**PAPER)
    args = parser.with_defaults(on_command_line)
    args.given = given
    args.shard = parse_shard(args.shard, os.environ)
    if "collection" not in given:
        args.collection = COLLECTIONS[args.source]
    if args.source == "stac":
        args.stac_url = args.stac_url or EARTH_SEARCH
    return args


def settings_of(args: Namespace) -> Settings:
    """Return what the plan records of the flags."""
    values = {name: getattr(args, name) for name in vars(DEFAULTS)}
    if args.bounds is not None:
        values["bounds"] = tuple(args.bounds)
    known = [band for band in ALL_BANDS if band in args.bands]  # in the order of the archives
    values["bands"] = tuple(known if len(known) == len(args.bands) else args.bands)
    return Settings(**values)


def parse_shard(text: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return number and count of the shards: of the flag, else of SLURM's array, else (0, 1).

    The indices of an array have to be one range: in 1,4,6 a task does not know those of the others.

    Args:
        text: Value of --shard.
        environment: Variables of the environment.

    Raises:
        UserError: The flag is no such pair, or the array's indices are not one range.
    """
    if text is not None:
        match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if number < count <= _MOST_SHARDS:
            return number, count
        raise UserError(f"--shard is I/N with I from 0 to N - 1, such as 0/4, not {quoted(text)}")
    if not any(map(environment.get, _SLURM)):
        return 0, 1
    try:
        task, first, last, step, count = (int(environment[name]) for name in _SLURM)
        indices = range(first, last + 1, step)
        if len(indices) != count:
            raise ValueError("the array has holes")
        return indices.index(task), count
    except (ValueError, KeyError, OverflowError) as error:
        shown = " ".join(f"{name}={quoted(environment.get(name, ''))}" for name in _SLURM)
        raise UserError(
            f"{shown} is not a task of an array whose indices are one range, so that places would "
            "be left out: give --array a range such as 0-3, or give --shard"
        ) from error


def check_fetching(args: Namespace) -> None:
    """Refuse values of the flags that are not in the plan."""
    check_values(Fetching, vars(args))
    check_positive(args, "probe")
    if args.shard[1] > args.max_in_flight:
        raise UserError(
            f"{args.shard[1]} shards cannot share {args.max_in_flight} requests at a time: use at "
            f"most {args.max_in_flight} shards"
        )
