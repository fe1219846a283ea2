"""Rough treatment of a collection's files, and services that refuse a probe."""

import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from datasets import seco_downloader
from datasets.collect.check import settings_from_json
from datasets.collect.journal import Journal
from datasets.collect.plan import Plan, make_plan, read_plan, write_plan
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.scenes import ComeBack, Refused
from datasets.collect.settings import Settings
from datasets.collect.status import summarise
from tests.servers.fake_source import FakeSource
from utils.errors import UserError
from utils.locks import sole_writer
from utils.retry import Transient

SMALL = Settings(
    num_locations=6,
    sampler="uniform",
    land_mask=False,
    patch_px=12,
    num_dates=2,
    bands=("B4",),
    reference_date="2022-03-01",
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = make_plan(SMALL)
    write_plan(tmp_path, plan)
    return plan


@pytest.mark.parametrize("name", ["plan.json", "places.csv", "journal.jsonl", "status.json"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(
    plan: Plan, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)

    with pytest.raises(UserError, match=f"{name}.*not a regular file"):
        summarise(tmp_path, read_plan(tmp_path))
    if name == "journal.jsonl":
        with pytest.raises(UserError, match=name), Journal(tmp_path, plan.hash).opened():
            pass


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lock").symlink_to("mine")

    with sole_writer(tmp_path / "lock", "busy"):
        pass

    assert (tmp_path / "mine").read_text() == "precious"


def test_a_number_of_a_plan_that_no_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="std_km is of another type"):
        settings_from_json(asdict(SMALL) | {"bands": ["B4"], "std_km": 10**400})


def probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[str], Any]
) -> str | int | None:
    monkeypatch.setattr(
        seco_downloader, "open_source", lambda plan, args: FakeSource(plan.settings, fault=fault)
    )
    with pytest.raises(SystemExit) as leaving:
        seco_downloader.main(["--save_path", str(tmp_path), "--probe", "2"])
    return leaving.value.code


@pytest.mark.usefixtures("plan")
def test_a_probe_without_quota_comes_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(kind: str) -> None:
        raise ComeBack("the quota is used up")

    assert probe(tmp_path, monkeypatch, fault) == 75
    assert "the quota is used up" in capsys.readouterr().err


@pytest.mark.usefixtures("plan")
def test_a_probe_whose_searches_are_refused_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(kind: str) -> None:
        raise Refused("HTTP 400, too much memory")

    with pytest.raises(UserError, match=r"0 scenes .* HTTP 400, too much memory"):
        probe(tmp_path, monkeypatch, fault)


def test_thousands_of_repeats_still_have_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RateLimit(1, 1e6)
    monkeypatch.setattr(limit, "wait", lambda seconds: None)
    left = iter(range(2000))

    def request() -> str:
        if next(left, None) is not None:
            raise Transient("busy")
        return "there"

    requester = Requester(limit, max_wait_s=0.001)
    assert requester.call(request) == "there"


@pytest.mark.usefixtures("plan")
def test_a_signal_before_the_fetch_means_go_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(plan: Plan, args: Any) -> FakeSource:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(seco_downloader, "open_source", connect)
    try:
        with pytest.raises(SystemExit) as leaving:
            seco_downloader.main(["--save_path", str(tmp_path)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert leaving.value.code == 75


def test_a_packed_store_that_is_not_complete_tells_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tmp_path, make_plan(replace(SMALL, format="packed")))

    with pytest.raises(SystemExit) as leaving:
        seco_downloader.main(["--save_path", str(tmp_path), "--verify"])
    assert leaving.value.code == 1
    assert "not yet a store: the same command without --verify goes on" in capsys.readouterr().out
