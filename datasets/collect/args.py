"""Command line of the downloader: what a plan records, how it is fetched, and which step."""

import os
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from datasets.bands import ALL_BANDS
from datasets.collect.settings import COLLECTIONS, DEFAULTS, EARTH_SEARCH, GROUPS, PAPER, Settings
from utils.cli import PROTOCOL_HELP
from utils.errors import UserError, quoted
from utils.flags import Parser, check_not_negative, check_positive

HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
# A task's index, and what describes all tasks: slurm.schedmd.com/job_array.html, sbatch.html.
_SLURM = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT"))
# Inclusive. Longer waits and more threads than these end in errors of the system.
_LIMITS = {
    "num_workers": (1, 1000),
    "max_rate": (0.001, 1e6),
    "timeout": (0.001, 1e6),
    "retry_wait": (0.001, 1e6),
    "give_up_after": (0.001, 1e7),
}


def _path(text: str) -> Path:
    """Refuse an empty path, the value of a shell variable that is not set."""
    if not text:
        raise ArgumentTypeError("an empty path: name a folder")
    return Path(text)


def build_parser(description: str | None) -> Parser:
    """Create the parser; the flags of a plan are those that ``Settings`` declares."""
    parser = Parser(description)
    add = parser.add_argument
    add("--save_path", type=_path, required=True, help="Folder of the data set.")
    _add_steps(parser)
    add = parser.add_argument
    for one in fields(Settings):
        if one.name in GROUPS:
            add = parser.group(GROUPS[one.name]).add_argument
        options = {key: one.metadata[key] for key in one.metadata.keys() - {"limits"}}
        if type(one.default) in (int, float):
            options["type"] = type(one.default)
        flag = options.pop("flag", f"--{one.name}")
        add(flag, dest=one.name, default=one.default, **options)
        if one.name == "scene_choice":  # the last of its group
            choices = ["corrected", "paper"]
            add("--protocol", choices=choices, default=choices[0], help=PROTOCOL_HELP)
    _add_fetching(parser)
    return parser


def _add_steps(parser: Parser) -> None:
    steps = parser.add_argument_group("steps, instead of all").add_mutually_exclusive_group()
    add = steps.add_argument
    add(
        "--plan",
        action="store_true",
        help="Choose places and dates, estimate the cost, draw a map, and stop.",
    )
    add("--status", action="store_true", help="Print the progress of all shards.")
    add(
        "--verify",
        action="store_true",
        help="Read all files again and compare them with the journal.",
    )
    add("--probe", type=int, metavar="N", help="Time the requests for N patches; write no files.")
    add(
        "--retry",
        choices=["failed", "all"],
        help="Request refused places again; all: also those without clear scenes.",
    )


def _add_fetching(parser: Parser) -> None:
    add = parser.group("fetching").add_argument
    add("--num_workers", type=int, default=48, help="Places in progress at a time.")
    add("--max_in_flight", type=int, default=40, help="Requests at a time of all shards together.")
    add("--max_rate", type=float, default=90, help="Requests per second of all shards together.")
    add("--timeout", type=float, default=120, help="Seconds after which a request has failed.")
    add(
        "--retry_wait",
        type=float,
        default=1,
        help="Longest wait before the first repeat in seconds; it doubles with each repeat.",
    )
    add(
        "--give_up_after",
        type=float,
        default=600,
        help="Seconds without any answer after which the run ends with exit code 75.",
    )
    add(
        "--min_free_gb", type=float, default=2, help="Free disk space in GB at which the run stops."
    )
    add("--shard", metavar="I/N", help="Part of the places (default: that of SLURM's array task).")
    add(
        "--indices_file",
        type=Path,
        help="File with the numbers of the only places to collect, without spares.",
    )
    add(
        "--log_freq",
        type=int,
        default=100,
        help="Places between two lines of a log, which also gets one a minute.",
    )
    add("--debug", action="store_true", help="Print every failed request.")
    add("--project", help="Google Cloud project (default: EARTHENGINE_PROJECT).")
    add(
        "--service_account_key",
        type=Path,
        help="JSON file with the key (default: the file, or its text, in "
        "EARTHENGINE_SERVICE_ACCOUNT_KEY).",
    )
    add("--ee_url", default=HIGH_VOLUME, help="Endpoint; one on loopback needs no credentials.")


def parse_args(description: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests.

    Returns:
        The flags. ``given`` has the names of those of a plan that were given: a plan that exists
        already decides the others. ``shard`` is the number of this part, and of all.
    """
    parser = build_parser(description)
    on_command_line = parser.parse_given(argv)
    given = on_command_line.keys() & (vars(DEFAULTS).keys() - {"preview"})
    if on_command_line.get("protocol") == "paper":
        given |= {name for name, value in vars(PAPER).items() if value != getattr(DEFAULTS, name)}
        parser.set_defaults(**asdict(PAPER))
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
    """Return number and count of the shards: of the flag, else of SLURM's array, else (0, 1)."""
    if text is not None:
        match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not number < count <= 10_000:
            raise UserError(
                f"--shard is I/N with I from 0 to N - 1, such as 0/4, not {quoted(text)}"
            )
        return number, count
    return _slurm_shard(environment) if any(map(environment.get, _SLURM)) else (0, 1)


def _slurm_shard(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return number and count of a task of SLURM's array, whose indices have to be one range.

    In an array such as 1,4,6 a task knows its index and the number of tasks, but not the others'.
    """
    shown = " ".join(f"{name}={quoted(environment.get(name, ''))}" for name in _SLURM)
    try:
        task, first, last, step, count = (int(environment[name]) for name in _SLURM)
        if task not in range(first, last + 1, step):
            raise ValueError("not an index of the array")
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{shown} is not a task of an array: correct them, or give --shard"
        ) from error
    in_range = (last - first) // step + 1
    if in_range != count:
        raise UserError(
            f"{shown}: the array has {count} tasks, but its range {first}-{last}:{step} has "
            f"{in_range}, so that places would be left out: give --array a range such as "
            f"0-{count - 1}, or give --shard"
        )
    return (task - first) // step, count


def check_fetching(args: Namespace) -> None:
    """Refuse values of the flags that are not in the plan."""
    for name, (low, high) in _LIMITS.items():
        value = getattr(args, name)
        if not low <= value <= high:
            raise UserError(f"--{name} must be from {low} to {high:g}, not {value}")
    check_positive(args, "max_in_flight", "log_freq", "probe")
    check_not_negative(args, "min_free_gb")
    if args.shard[1] > args.max_in_flight:
        raise UserError(
            f"{args.shard[1]} shards cannot share {args.max_in_flight} requests at a time: use at "
            f"most {args.max_in_flight} shards"
        )
