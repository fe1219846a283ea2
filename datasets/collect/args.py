"""Command line of the downloader: what a plan records, how it is fetched, and which step."""

import os
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from datasets.bands import ALL_BANDS
from datasets.collect.settings import Settings
from utils.cli import PROTOCOL_HELP
from utils.errors import UserError, quoted
from utils.flags import Parser, check_not_negative, check_positive

PLANNED = {field.name for field in fields(Settings)}
COLLECTIONS = {"earthengine": "COPERNICUS/S2_SR_HARMONIZED", "stac": "sentinel-2-l2a"}
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
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
    add("--save_path", type=_path, required=True, help="Folder of the data set.")
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
        help="Choose places and dates, estimate the cost, draw a map, and stop.",
    )
    add("--status", action="store_true", help="Print how far all shards are.")
    add(
        "--verify",
        action="store_true",
        help="Read all files again and compare them with the journal.",
    )
    add("--probe", type=int, metavar="N", help="Time the requests for N patches; write no files.")
    add(
        "--retry",
        choices=["failed", "all"],
        help="Request places again that were refused; all: also those without clear scenes.",
    )


def _add_plan(parser: Parser) -> None:
    add = parser.group("where and when (recorded in the plan)").add_argument
    add("--num_locations", type=int, help="Places to collect.")
    add("--seed", type=int, help="Seed of places and dates.")
    add(
        "--sampler",
        choices=["gaussian", "uniform", "bounded"],
        help="Where places are drawn: around cities, on all land, or on the land within --bounds.",
    )
    add("--std_km", type=float, help="Standard deviation around a city along either axis, in km.")
    add(
        "--bounds",
        type=float,
        nargs=4,
        metavar=("W", "S", "E", "N"),
        help="Bounds of --sampler bounded in degrees.",
    )
    add("--cities", help="CSV with lat, lng and population; geonames is the table of this project.")
    add("--match_file", help="CSV with lat and lng of places to collect instead of sampled ones.")
    add("--no_land_mask", dest="land_mask", action="store_false", help="Also keep places at sea.")
    add("--patch_px", type=int, help="Side of a patch in pixels of 10 m, a multiple of 6.")
    add("--spares", type=float, help="Places in reserve, per place to collect.")
    add("--num_dates", type=int, help="Scenes of each place.")
    add("--interval_days", type=int, help="Days from one scene's window to the next.")
    add("--window_days", type=int, help="Length of a window in days.")
    add(
        "--max_shift_days",
        type=int,
        help="Bound of the random shift of a place's windows, in days.",
    )
    add(
        "--reference_date",
        metavar="YYYY-MM-DD",
        help="Date 28 days after the centre of the newest window (default: the day of the plan).",
    )


def _add_scenes(parser: Parser) -> None:
    add = parser.group("which scenes (recorded in the plan)").add_argument
    add("--source", choices=list(COLLECTIONS), help="Service to ask; stac needs no account.")
    collections = ", ".join(f"{c} of {s}" for s, c in COLLECTIONS.items())
    add("--collection", help=f"Collection of scenes (default: {collections}).")
    add("--stac_url", help=f"Address of the STAC catalogue (default: {EARTH_SEARCH}).")
    add("--cloud_pct", type=float, help="Most clouds of a scene, in percent.")
    add("--cloud_score", choices=["cs_cdf", "cs", "none"], help="Band of Cloud Score+ to use.")
    add(
        "--clear_threshold", type=float, help="Cloud score from which on a pixel is clear, in 0..1."
    )
    add("--clear_fraction", type=float, help="Share of clear pixels that a patch needs, in 0..1.")
    add(
        "--scene_choice",
        choices=["least_cloudy", "nearest", "newest"],
        help="Which of the scenes in a window is tried first.",
    )
    add("--protocol", choices=["corrected", "paper"], default="corrected", help=PROTOCOL_HELP)


def _add_output(parser: Parser) -> None:
    add = parser.group("what is written (recorded in the plan)").add_argument
    add(
        "--bands",
        nargs="+",
        choices=ALL_BANDS,
        metavar="BAND",
        help="Bands to collect (default: all 12 of level 2A).",
    )
    add(
        "--dtype",
        choices=["uint8", "uint16"],
        help="Type of the stored values: 255 times reflectance, or 10,000 times.",
    )
    add(
        "--compress",
        choices=["deflate", "jpeg"],
        help="Compression of the files: lossless, or as small as in the published archives.",
    )
    add(
        "--format",
        choices=["folder", "packed"],
        help="Layout: one file per band, or the store of datasets/seco_packed.py.",
    )
    add("--preview", action="store_true", help="Also write pictures into SAVE_PATH_previews.")


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
    return _slurm_shard(environment) if any(map(environment.get, _SLURM)) else (0, 1)


def _slurm_shard(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return number and count of a task of SLURM's array, whose indices have to be one range.

    Of an array such as 1,4,6 a task knows its index and how many there are, but not which.
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
