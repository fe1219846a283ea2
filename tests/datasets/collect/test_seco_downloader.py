"""The downloader as users run it: a process, the real Earth Engine client, a server on loopback."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datasets import seco_downloader
from datasets.collect.journal import read_journals
from datasets.collect.plan import Plan, read_plan
from datasets.collect.scenes import Refused
from datasets.miniature.services.catalogue import Catalogue
from datasets.miniature.services.earth_engine import EarthEngineServer, earth_engine
from datasets.miniature.services.faults import DAY, FaultPlan, Held, content, no_fault, status
from datasets.seco.patches import SecoPatches
from tests.references.downloader_runs import PLAN, collect, flags
from tests.references.fetch_runs import tree
from tests.references.waiting import HANG_S, wait_until
from tests.servers.fake_source import FakeSource
from utils.cli import run
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def start(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "datasets/seco_downloader.py", *argv],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def images_of(save_path: Path) -> int:
    return len(list(save_path.glob("[0-9]*/*/metadata.json")))


def test_one_command_collects_and_verifies(
    downloaded: Path, server: EarthEngineServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect(flags(downloaded, server, "--verify")) == 0
    assert capsys.readouterr().out == "12 of 12 places, 0 damaged\n"
    assert images_of(downloaded) == 36
    assert collect(flags(downloaded, server, "--status")) == 0
    assert re.search(r"places done +12$", capsys.readouterr().out, flags=re.MULTILINE)
    assert json.loads((downloaded / "status.json").read_text())["ending"] == "complete"
    patches = SecoPatches(downloaded, ("B4", "B3", "B2"))
    assert len(patches.places) == 12
    assert {patches.read(patch).shape for patch in range(36)} == {(3, 12, 12)}


def test_the_plan_alone_sends_no_request(
    tmp_path: Path, server: EarthEngineServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = server.requests.total()

    assert collect(flags(tmp_path / "c", server, *PLAN, "--plan")) == 0

    assert server.requests.total() == before
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {"plan.json", "plan.png", "places.csv"}
    assert "requests" in capsys.readouterr().out


def test_a_probe_writes_no_patch(
    tmp_path: Path, server: EarthEngineServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect(flags(tmp_path / "c", server, *PLAN, "--probe", "3")) == 0

    seen = json.loads(capsys.readouterr().out)
    assert seen["patches"] == 3
    assert seen["dtype of the pixels"] == "<u2"
    assert images_of(tmp_path / "c") == 0


def test_the_process_stops_on_a_signal_and_resumes(downloaded: Path, tmp_path: Path) -> None:
    with earth_engine() as server:
        with held(server, after=5) as asked:
            process = start(flags(tmp_path / "c", server, *PLAN, "--num_workers", "2"))
            wait_until(lambda: asked.is_set() or process.poll() is not None)
            process.terminate()
        _, error = process.communicate(timeout=HANG_S)
        again = start(flags(tmp_path / "c", server))
        out, _ = again.communicate(timeout=HANG_S)

    assert process.returncode == 75, error
    assert "SIGTERM was received; the same command resumes it" in error
    after = f"next: python main_pretrain.py --data_dir {tmp_path / 'c'} --batch_size 6"
    after += " --num_negatives 6 --crop_size 12"
    assert again.returncode == 0
    assert out.splitlines() == [f"complete: 12 places in {tmp_path / 'c'}", after]
    assert tree(tmp_path / "c") == tree(downloaded)


@contextmanager
def held(server: EarthEngineServer, after: int) -> Iterator[threading.Event]:
    """Answer so many reads, and no other one before the block ends; gives when that is asked."""
    fault = Held()
    server.faults["read"].extend([no_fault] * after + [fault] * 999)
    try:
        yield fault.asked
    finally:
        server.faults["read"].clear()
        fault.released.set()


def done_at(save_path: Path) -> set[tuple[int, int]]:
    """Return the corners of the places that the journals call done."""
    if not (save_path / "plan.json").exists():
        return set()
    plan = read_plan(save_path)
    records = read_journals(save_path, plan.hash).values()
    grids = [plan.place(record.place).grid for record in records if record.outcome == "done"]
    return {(grid.left, grid.top) for grid in grids}


def kill_at_work(
    save_path: Path, server: EarthEngineServer, argv: list[str], after: int, records: bool
) -> None:
    """Kill a run that waits for its next read; ``records``: not before a place is recorded."""
    corners, known = done_at(save_path), dict(server.reads)
    with held(server, after) as asked:
        process = start(argv)
        wait_until(lambda: asked.is_set() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        if records:
            wait_until(lambda: done_at(save_path) != corners)
        process.kill()
        process.communicate(timeout=HANG_S)
    fresh = {key[1:] for key, n in server.reads.items() if n > known.get(key, 0)}
    assert not corners & fresh  # nothing is asked that was recorded


def kill_until(save_path: Path, server: EarthEngineServer, argv: list[str], kills: int) -> None:
    """Kill runs in the middle of their work, and let the last one end."""
    rng = random.Random(0)
    for number in range(kills):
        records = number % 2 == 0
        # Eight workers share 24 answers: one of their places of 3 dates is complete.
        kill_at_work(save_path, server, argv, 24 if records else rng.randrange(12), records)
    process = start(argv)
    _, error = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, error


@pytest.mark.parametrize(
    ("kills", "number"), [(2, 12), pytest.param(50, 600, marks=pytest.mark.slow)]
)
@pytest.mark.difference("collect-resume")
def test_a_killed_collection_ends_file_for_file_the_same(
    kills: int, number: int, downloaded: Path, tmp_path: Path
) -> None:
    plan = [*PLAN, "--num_locations", str(number)]
    with earth_engine() as server:
        kill_until(tmp_path / "c", server, flags(tmp_path / "c", server, *plan), kills)
        expected = downloaded
        if number != 12:
            expected = tmp_path / "undisturbed"
            assert collect(flags(expected, server, *plan)) == 0

    assert tree(tmp_path / "c") == tree(expected)
    assert not list((tmp_path / "c").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_a_thousand_places_are_complete_at_any_rate_of_faults(share: float, tmp_path: Path) -> None:
    plan = [*PLAN, "--num_locations", "1000", "--num_dates", "5"]
    with earth_engine(fault_plan=FaultPlan(share)) as server:
        assert collect(flags(tmp_path / "c", server, *plan, "--num_workers", "40")) == 0
        assert collect(flags(tmp_path / "c", server, "--verify")) == 0

    assert len(list((tmp_path / "c").glob("[0-9]*"))) == 1000
    assert images_of(tmp_path / "c") == 5000


@pytest.mark.slow  # tests/datasets/collect/test_fetch.py has two shards one after the other
def test_two_shards_at_a_time_give_the_same_set_as_one(
    server: EarthEngineServer, tmp_path: Path
) -> None:
    plan = [*PLAN, "--num_locations", "55"]
    argv = flags(tmp_path / "c", server, *plan)
    shards = [start([*argv, "--shard", f"{number}/2"]) for number in range(2)]
    for shard in shards:
        _, error = shard.communicate(timeout=HANG_S)
        assert shard.returncode == 0, error

    assert collect(flags(tmp_path / "one", server, *plan)) == 0
    assert tree(tmp_path / "c") == tree(tmp_path / "one")
    assert collect(flags(tmp_path / "c", server, "--verify")) == 0


@pytest.mark.difference("collect-requests")
def test_requests_per_image_are_few(tmp_path: Path) -> None:
    with earth_engine() as server:
        assert collect(flags(tmp_path / "c", server, *PLAN, "--num_dates", "5")) == 0
        requests = server.requests["search"] + server.requests["read"]

    assert requests <= 1.3 * images_of(tmp_path / "c")


STOPS = {
    "401": (status(401, "Request had invalid authentication credentials."), 2, "credentials"),
    "403": (status(403, "Permission denied."), 2, "--project"),
    "day": (DAY, 75, "quota of the day"),
    "page": (content(b"<html>", "text/html"), 75, "not those of the service"),
}


@pytest.mark.parametrize("kind", STOPS)
def test_what_cannot_pass_ends_the_run_in_one_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, code, words = STOPS[kind]
    with earth_engine(fault_plan=FaultPlan(1.0, faults={kind: fault})) as server:
        assert collect(flags(tmp_path / "c", server, *PLAN)) == code

    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert images_of(tmp_path / "c") == 0


def test_a_collection_without_clear_scenes_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with earth_engine(catalogue=Catalogue(cloudiness=1.7)) as server:
        assert collect(flags(tmp_path / "c", server, *PLAN)) == 1

    assert "12 places have no clear scenes and no spare is left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--num_locations", "0"], "--num_locations"),
        (["--seed", "7"], "--seed is 42 in the plan"),
        (["--num_dates", "4"], "--num_dates is 3 in the plan"),
        (["--indices_file", "none.txt"], "none.txt does not exist"),
        (["--num_workers", "0"], "--num_workers"),
        (["--save_path", "/proc/nowhere"], "--save_path /proc/nowhere cannot be written"),
    ],
)
def test_bad_flags_are_one_sentence(
    argv: list[str],
    words: str,
    downloaded: Path,
    server: EarthEngineServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert collect(flags(downloaded, server, *argv)) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_without_a_server_the_address_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--save_path", str(tmp_path / "c"), *PLAN, "--ee_url", "http://127.0.0.1:9"]
    argv += ["--give_up_after", "0.2"]
    assert collect(argv) == 75
    assert "does not answer at http://127.0.0.1:9" in capsys.readouterr().err


def test_a_probe_whose_searches_are_refused_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(kind: str) -> None:
        raise Refused("HTTP 400, too much memory")

    monkeypatch.setattr(
        seco_downloader, "open_source", lambda plan, args: FakeSource(plan.settings, fault=fault)
    )
    with pytest.raises(UserError, match=r"0 scenes .* HTTP 400, too much memory"):
        seco_downloader.main(["--save_path", str(tmp_path), *PLAN, "--probe", "2"])


@pytest.mark.usefixtures("_restored_signals")
def test_a_signal_before_the_fetch_means_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(plan: Plan, args: Any) -> FakeSource:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr(seco_downloader, "open_source", connect)
    flags = ["--save_path", str(tmp_path), *PLAN]
    with pytest.raises(SystemExit) as leaving:
        run(lambda: seco_downloader.main(flags), resumes=True)
    assert leaving.value.code == 75
