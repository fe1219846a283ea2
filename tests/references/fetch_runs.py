"""Run the engine of a collection in process: small settings, a plan, a fetch, its files."""

from pathlib import Path
from typing import Any

from datasets.collect.blocks import blocks_of
from datasets.collect.collector import Collector
from datasets.collect.fetch import Fetch
from datasets.collect.journal import Journal, read_journals
from datasets.collect.packed import PackedCollection
from datasets.collect.plan import Plan, open_plan
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.report import Ending
from datasets.collect.settings import Settings
from datasets.collect.writer import PlaceWriter
from tests.references.waiting import HANG_S
from tests.servers.fake_source import FakeSource

SETTINGS = Settings(
    num_locations=30,
    patch_px=12,
    num_dates=2,
    land_mask=False,
    bands=("B2", "B3", "B4"),
    reference_date="2022-03-01",
)


def plan_in(save_path: Path, settings: Settings = SETTINGS) -> Plan:
    return open_plan(save_path, settings, set())


def fetch(
    save_path: Path,
    plan: Plan,
    source: FakeSource,
    shard: tuple[int, int] = (0, 1),
    budget_s: float = HANG_S,
    store: PackedCollection | None = None,
    **settings: Any,
) -> Ending:
    requester = Requester(RateLimit(8, 1e6), base_wait_s=1e-3, budget_s=budget_s, max_strange=3)
    journal = Journal(save_path, plan.hash, shard)
    with journal.opened():
        root = None if store is None else store.places
        writer = PlaceWriter(save_path, plan.settings, source.describe(), shard, root)
        writer.clear()
        run = Fetch(
            Collector(plan, source, requester, writer),
            journal,
            blocks_of(plan, settings.pop("indices", None), shard),
            read_journals(save_path, plan.hash),
            num_workers=4,
            on_block=None if store is None else store.pack,
            **{"grace_s": HANG_S, "min_free_bytes": 0} | settings,
        )
        try:
            return run.run()
        finally:
            writer.clear()


def tree(save_path: Path) -> dict[str, bytes]:
    """Return the places and nothing else."""
    return {
        path.relative_to(save_path).as_posix(): path.read_bytes()
        for path in sorted(save_path.rglob("*"))
        if path.is_file() and path.parent != save_path
    }
