"""Collect a SeCo data set: Sentinel-2 patches of many places, at several seasons each.

From Earth Engine, with a project of yours (or EARTHENGINE_PROJECT):
  python datasets/seco_downloader.py --save_path data/my_seco --num_locations 1000 --project P

Kill it at any time; the same command resumes it. What it will cost, before it starts, and later how
far it is:
  python datasets/seco_downloader.py --save_path data/my_seco --num_locations 1000 --plan
  python datasets/seco_downloader.py --save_path data/my_seco --status
  python datasets/seco_downloader.py --save_path data/my_seco --verify

Without an account, from a public STAC catalogue:
  python datasets/seco_downloader.py --save_path data/my_seco --num_locations 100 --source stac

Exit codes: 0 complete, 1 some places have no clear scenes or were refused and no spare is left,
2 bad input, 75 run the same command again later.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets.collect.args import check_fetching, parse_args, settings_of
from datasets.collect.settings import EXIT_LATER, PLACES_PER_SEARCH, PLAN_NAME
from utils.cli import run
from utils.errors import printable
from utils.files import check_can_write, check_exists

# NumPy, rasterio and Earth Engine take a second to import: each is imported by the step that
# uses it, so that --help and wrong flags are answered at once. No step imports torch.
if TYPE_CHECKING:
    from datasets.collect.plan import Plan
    from datasets.collect.rate_limit import Requester
    from datasets.collect.scenes import Source
    from utils.retry import Transient


def main(argv: Sequence[str] | None = None) -> None:
    """Do the requested step, and leave with its exit code."""
    args = parse_args(__doc__, argv)
    check_flags(args)
    from datasets.collect.plan import open_plan, read_plan

    if args.status or args.verify:
        plan = read_plan(args.save_path)
    else:
        plan = open_plan(args.save_path, settings_of(args), args.given)
    if args.verify:
        sys.exit(check(args.save_path, plan, args.num_workers))
    if args.status or args.plan:
        show(args, plan)
        return
    from datasets.collect.run import collect, print_later
    from datasets.collect.scenes import ComeBack

    try:
        source = open_source(plan, args)
        if args.probe is not None:
            from datasets.collect.probe import Probe

            found = Probe(plan, source, new_requester(args)).run(args.probe)
            print(json.dumps(found, indent=1))
            return
    except ComeBack as error:
        print_later(str(error))
        sys.exit(EXIT_LATER)
    sys.exit(collect(plan, source, new_requester(args), args))


def check_flags(args: Namespace) -> None:
    """Refuse flags that cannot work, before anything is read or written."""
    check_fetching(args)
    check_exists("indices_file", args.indices_file)
    if not (args.save_path / PLAN_NAME).exists():  # which has read them already
        check_exists("match_file", args.match_file and Path(args.match_file))
        check_exists("cities", None if args.cities == "geonames" else Path(args.cities))
    if args.status or args.verify:
        check_exists("save_path", args.save_path)
    if not args.status:
        check_can_write("save_path", args.save_path, is_folder=True)


def show(args: Namespace, plan: Plan) -> None:
    """Print how far all shards are, or what the plan will cost and where its places are.

    Args:
        args: Flags of the command.
        plan: Plan of the collection.
    """
    from datasets.collect.report import summarise, table

    if args.status:
        print(table(summarise(args.save_path, plan)))
        return
    from datasets.collect.estimate import estimate, plot_places

    print(table(estimate(plan, PLACES_PER_SEARCH[plan.settings.source])))
    plot_places(args.save_path / "plan.png", plan)
    print(f"plan: {args.save_path / PLAN_NAME}, {args.save_path / 'plan.png'}")


def check(save_path: Path, plan: Plan, num_workers: int) -> int:
    """Read everything again, and return the exit code; arguments as in ``verify``."""
    from datasets.collect.report import summarise
    from datasets.collect.verify import verify
    from datasets.store.manifest import MANIFEST_NAME
    from datasets.store.rows import verify_store

    if plan.settings.format == "folder":
        return 0 if verify(save_path, plan, num_workers) else 1
    if not (save_path / MANIFEST_NAME).exists():
        done = summarise(save_path, plan)["places_done"]
        print(
            f"{done} of {plan.num_places} places, not yet a store: the same command without "
            "--verify collects the others, and --status says how the last runs ended"
        )
        return 1
    store = verify_store(save_path, num_workers)
    print(f"{len(store.places)} of {plan.num_places} places, 0 damaged")
    return 0 if len(store.places) == plan.num_places else 1


def open_source(plan: Plan, args: Namespace) -> Source:
    """Return the source of the plan's scenes; its client is only imported if it is needed.

    Args:
        plan: Plan of the collection.
        args: Flags of the command.

    Raises:
        UserError: The service refuses the account, or a library is missing.
        ComeBack: The service does not answer.
    """
    if plan.settings.source == "stac":
        from datasets.collect.stac import Stac

        return Stac(plan.settings, timeout_s=args.timeout)
    from datasets.collect.earth_engine import connect

    return connect(
        plan.settings,
        url=args.ee_url,
        project=args.project,
        key_file=args.service_account_key,
        timeout_s=args.timeout,
        num_threads=args.num_workers,
        patience_s=min(30.0, args.give_up_after),
    )


def new_requester(args: Namespace) -> Requester:
    """Return the sender of requests, within this shard's part of the quota."""
    from tqdm import tqdm

    from datasets.collect.rate_limit import RateLimit, Requester

    def show_failure(error: Transient) -> None:
        if args.debug:
            tqdm.write(printable(f"failed: {error}"), file=sys.stderr)

    count = args.shard[1]
    return Requester(
        RateLimit(args.max_in_flight // count, args.max_rate / count),
        base_wait_s=args.retry_wait,
        budget_s=args.give_up_after / 2,  # one request alone does not end the run
        on_error=show_failure,
    )


if __name__ == "__main__":
    run(main, resumes=True)
