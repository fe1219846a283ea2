"""Command line of the downloader: what a plan records, how it is fetched, and which step."""

import os
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from datasets.bands import ALL_BANDS
from datasets.collect_settings import Settings
from utils.cli import PROTOCOL_HELP
from utils.errors import UserError, quoted
from utils.flags import Parser, check_not_negative, check_positive

PLANNED = {field.name for field in fields(Settings)}
COLLECTIONS = {"earthengine": "COPERNICUS/S2_SR_HARMONIZED", "stac": "sentinel-2-l2a"}
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
# Inclusive. Longer waits and more threads than these end in errors of the system.
_LIMITS = {
    "num_workers": (1, 1000),
    "max_rate": (0.001, 1e6),
    "timeout": (0.001, 1e6),
    "retry_wait": (0.001, 1e6),
    "give_up_after": (0.001, 1e7),
}
# What the original does, as far as it can be had by flags.
PAPER = Settings(
    land_mask=False,
    cloud_score="none",
    clear_fraction=0.0,
    scene_choice="newest",
    compress="jpeg",
)


def _path(text: str) -> Path:
    """Refuse an empty path, as a variable of the shell that is not set gives it."""
    if not text:
        raise ArgumentTypeError("an empty path: name a folder")
    return Path(text)


def build_parser(description: str | None) -> Parser:
    """Create the parser; the flags of a plan have the defaults of ``Settings``."""
    parser = Parser(description)
    add = parser.add_argument
    add("--save_path", type=_path, required=True, help="folder of the data set")
    _add_steps(parser)
    _add_plan(parser)
    _add_scenes(parser)
    _add_output(parser)
    _add_fetching(parser)
    parser.set_defaults(**asdict(Settings()))
    return parser


def _add_steps(parser: Parser) -> None:
    steps = parser.add_argument_group("steps, instead of all").add_mutually_exclusive_group()
    add = steps.add_argument
    add(
        "--plan",
        action="store_true",
        help="choose places and dates, estimate the cost, draw a map, stop",
    )
    add("--status", action="store_true", help="tell how far all shards are")
    add(
        "--verify",
        action="store_true",
        help="read everything again, compare it with the journal",
    )
    add("--probe", type=int, metavar="N", help="read N patches, write none, tell what was seen")
    add(
        "--retry",
        choices=["failed", "all"],
        help="ask again for places that were refused, or also "
        "for those without clear scenes, where spares ran out",
    )


def _add_plan(parser: Parser) -> None:
    group = parser.add_argument_group("where and when (recorded in the plan)")
    add = group.add_argument
    add("--num_locations", type=int, help="places to collect")
    add("--seed", type=int, help="of places and dates")
    add(
        "--sampler",
        choices=["gaussian", "uniform", "bounded"],
        help="around cities, on all land, or on the land within --bounds",
    )
    add("--std_km", type=float, help="standard deviation around a city, along either axis")
    add(
        "--bounds",
        type=float,
        nargs=4,
        metavar=("W", "S", "E", "N"),
        help="degrees, of --sampler bounded",
    )
    add("--cities", help="CSV with lat, lng and population, or geonames for the table that is here")
    add("--match_file", help="CSV with lat and lng: collect these places instead of sampled ones")
    add("--no_land_mask", dest="land_mask", action="store_false", help="also keep places at sea")
    add("--patch_px", type=int, help="side of a patch in pixels of 10 m, a multiple of 6")
    add("--spares", type=float, help="places in reserve, per place")
    add("--num_dates", type=int, help="scenes per place")
    add("--interval_days", type=int, help="from one scene's window to the next")
    add("--window_days", type=int, help="length of a window")
    add("--max_shift_days", type=int, help="windows of a place are shifted by less than this")
    add(
        "--reference_date",
        help="YYYY-MM-DD, the newest window is centred 28 days before; "
        "by default the day of the plan",
    )


def _add_scenes(parser: Parser) -> None:
    group = parser.add_argument_group("which scenes (recorded in the plan)")
    add = group.add_argument
    add("--source", choices=list(COLLECTIONS), help="stac needs no account")
    add("--collection", help="default: " + ", ".join(f"{c} of {s}" for s, c in COLLECTIONS.items()))
    add("--stac_url", help=f"address of the catalogue, default {EARTH_SEARCH}")
    add("--cloud_pct", type=float, help="clouds that a scene may have, in percent")
    add("--cloud_score", choices=["cs_cdf", "cs", "none"], help="band of Cloud Score+")
    add("--clear_threshold", type=float, help="cloud score from which a pixel is clear")
    add("--clear_fraction", type=float, help="share of clear pixels that a patch needs")
    add("--scene_choice", choices=["least_cloudy", "nearest", "newest"], help="in a window")
    add("--protocol", choices=["corrected", "paper"], default="corrected", help=PROTOCOL_HELP)


def _add_output(parser: Parser) -> None:
    group = parser.add_argument_group("what is written (recorded in the plan)")
    add = group.add_argument
    add(
        "--bands",
        nargs="+",
        choices=ALL_BANDS,
        metavar="BAND",
        help="some of the 12 of level 2A, by default all",
    )
    add("--dtype", choices=["uint8", "uint16"], help="255 times reflectance, or 10,000 times")
    add("--compress", choices=["deflate", "jpeg"], help="lossless, or the size of the archives")
    add("--format", choices=["folder", "packed"], help="files, or the store of seco_packed.py")
    add("--preview", action="store_true", help="pictures of the places in SAVE_PATH_previews")


def _add_fetching(parser: Parser) -> None:
    group = parser.add_argument_group("fetching")
    add = group.add_argument
    add("--num_workers", type=int, default=48, help="places that are in progress at a time")
    add("--max_in_flight", type=int, default=40, help="requests at a time, of all shards together")
    add("--max_rate", type=float, default=90, help="requests per second, of all shards together")
    add("--timeout", type=float, default=120, help="seconds that a request may take")
    add(
        "--retry_wait", type=float, default=1, help="most seconds before a first repeat; it doubles"
    )
    add("--give_up_after", type=float, default=600, help="seconds without any answer, then exit 75")
    add("--min_free_gb", type=float, default=2, help="stop when the disk has less")
    add("--shard", metavar="I/N", help="part of the places, by default that of SLURM's array task")
    add("--indices_file", type=Path, help="numbers of places: collect only these, without spares")
    add("--log_freq", type=int, default=100, help="places between two lines of a log")
    add("--debug", action="store_true", help="tell about every failed request")
    add("--project", help="Google Cloud project, by default EARTHENGINE_PROJECT")
    add(
        "--service_account_key",
        type=Path,
        help="JSON file, by default the one, or the text, in EARTHENGINE_SERVICE_ACCOUNT_KEY",
    )
    add("--ee_url", default=HIGH_VOLUME, help="endpoint; one on loopback needs no credentials")


def parse_args(description: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests.

    Returns:
        The flags. ``given`` has the names of those of a plan that were given: a plan that exists
        already decides the others. ``shard`` is the number of this part, and of all.
    """
    parser = build_parser(description)
    on_command_line = parser.parse_given(argv)
    given = on_command_line.keys() & (PLANNED - {"preview"})
    if on_command_line.get("protocol") == "paper":
        usual = Settings()
        given |= {name for name in PLANNED if getattr(PAPER, name) != getattr(usual, name)}
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
    values = {name: getattr(args, name) for name in PLANNED}
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
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP")]
    values = [environment.get(name, "") for name in names]
    if not any(values):
        return 0, 1
    try:
        task, first, last, step = map(int, values)
        if task not in range(first, last + 1, step):
            raise ValueError("no task of the array")
    except ValueError as error:
        shown = " ".join(
            f"{name}={quoted(value)}" for name, value in zip(names, values, strict=True)
        )
        raise UserError(f"{shown} is no task of an array: correct them, or give --shard") from error
    return (task - first) // step, (last - first) // step + 1


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
            f"{args.shard[1]} shards cannot share {args.max_in_flight} requests: use fewer"
        )
