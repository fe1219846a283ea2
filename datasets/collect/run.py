"""One run over the places of a shard: journal, files or store, fetch and report together."""

import os
import sys
from argparse import Namespace
from dataclasses import replace

from datasets.collect.blocks import blocks_of, read_indices
from datasets.collect.collector import Collector
from datasets.collect.fetch import Fetch
from datasets.collect.journal import Journal, read_journals
from datasets.collect.packed import PackedCollection
from datasets.collect.plan import Plan, read_plan
from datasets.collect.rate_limit import Requester
from datasets.collect.report import Ending, Reporter, some_places
from datasets.collect.scenes import Source
from datasets.collect.settings import EXIT_LATER, check_settings
from datasets.collect.writer import PlaceWriter
from datasets.store.rows import verify_store
from utils.cli import crop_for, print_next, sizes_for
from utils.errors import UserError, printable, sentence_of

_EXIT_CODES = {"complete": 0, "incomplete": 1, "later": EXIT_LATER}


def collect(plan: Plan, source: Source, requester: Requester, args: Namespace) -> int:
    """Fetch this shard's places, print how the run ended, and return its exit code.

    Args:
        plan: Plan of the collection.
        source: Source of scenes.
        requester: Sends the requests.
        args: Flags of the run.

    Raises:
        UserError: Another process replaced the plan.
    """
    save_path = args.save_path
    journal = Journal(save_path, plan.hash, args.shard)
    was_store = False
    if plan.settings.format == "packed":
        collection = PackedCollection(save_path, plan)
        was_store = collection.is_finished
        for place in collection.forget_damaged(args.shard):
            print(f"{place:06d} was damaged while it waited, and is collected again")
    with journal.opened():
        if read_plan(save_path).hash != plan.hash:
            raise UserError(f"another process replaced the plan of {save_path}: run this again")
        fetch, ending, stored = _fetch(plan, source, requester, args, journal)
    if ending.kind == "later":
        print_later(ending.reason)
    elif ending.kind == "incomplete":
        print(printable(f"error: {ending.reason}"), file=sys.stderr)
    else:
        if was_store:  # nothing was written that would have been hashed
            verify_store(save_path, args.num_workers)
        done = fetch.progress.done
        print(f"complete: {some_places(done)} in {save_path}")
        if args.shard[1] == 1:
            sizes = [*sizes_for(done), *crop_for(plan.settings.patch_px)]
            print_next("main_pretrain.py", "--data_dir", save_path, *sizes)
    if 0 < stored < plan.num_places:
        print(f"{save_path} is a store of {stored} places instead of {plan.num_places}")
    if fetch.is_abandoned:  # its threads wait for answers that may never come
        sys.stdout.flush()
        os._exit(_EXIT_CODES[ending.kind])
    return _EXIT_CODES[ending.kind]


def _fetch(
    plan: Plan, source: Source, requester: Requester, args: Namespace, journal: Journal
) -> tuple[Fetch, Ending, int]:
    """Fetch by a journal that is open; return also the number of places in a finished store."""
    save_path = args.save_path
    # Pictures may be requested later; they do not change the data.
    settings = replace(plan.settings, preview=args.preview or plan.settings.preview)
    check_settings(settings)
    records = read_journals(save_path, plan.hash)
    store = PackedCollection(save_path, plan) if settings.format == "packed" else None
    if store is not None:
        store.open(records, args.shard)
    root = None if store is None else store.places
    writer = PlaceWriter(save_path, settings, source.describe(), args.shard, root)
    reporter = Reporter(save_path, plan, args.shard, requester, args.log_freq)
    indices = None if args.indices_file is None else read_indices(args.indices_file, plan)
    fetch = Fetch(
        Collector(plan, source, requester, writer),
        journal,
        blocks_of(plan, indices, args.shard),
        records,
        num_workers=args.num_workers,
        retry=args.retry,
        has_spares=settings.match_file is None and indices is None,
        give_up_s=args.give_up_after,
        min_free_bytes=1e9 * args.min_free_gb,
        report=reporter,
        on_block=None if store is None else store.pack,
    )
    writer.clear()
    ending = Ending("failed", "an error of the program")
    try:
        ending = fetch.run()
    except UserError as error:
        ending = Ending("failed", sentence_of(error))
        raise
    finally:
        if not fetch.is_abandoned:
            writer.clear()
        reporter.end(fetch.progress, ending)
    stored = 0
    if store is not None and not fetch.is_abandoned:
        stored = store.finish()
    return fetch, ending, stored


def print_later(reason: str) -> None:
    """Print why a run stops that can be resumed."""
    print(printable(f"stopped, {reason}; the same command resumes it"), file=sys.stderr)
