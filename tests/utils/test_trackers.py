"""Runs of Weights & Biases (a stand-in, and offline) and of MLflow: each value arrives once."""

import json
import struct
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from utils import cli
from utils.errors import UserError
from utils.history import rows_before
from utils.run_log import METRICS, RunLog
from utils.trackers import Tracker

History = list[tuple[int, float]]  # steps and values


class StandIn:
    """Keeps what the runs of a module ``wandb`` receive, by their ids."""

    def __init__(self) -> None:
        self.received: dict[str, History] = defaultdict(list)
        self.asked: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.is_down = False

    Settings = dict

    def init(self, **asked: Any) -> Any:
        self.asked.append(asked)
        run_id = asked["id"] or f"run{len(self.asked)}"

        def log(values: dict[str, float], step: int) -> None:
            if self.is_down:
                raise ConnectionError("no route to host\nat line 3")
            self.received[run_id].append((step, values["train/loss"]))

        return SimpleNamespace(
            id=run_id, log=log, finish=lambda exit_code: self.exit_codes.append(exit_code)
        )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", cast(Any, module))
    return module


def read_stand_in(folder: Path, run_id: str) -> History:
    module: Any = sys.modules["wandb"]
    received: History = module.received[run_id]
    return received


def read_wandb(folder: Path, run_id: str) -> History:
    """Read the files that `wandb sync` would send."""
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")
    history = []
    for path in sorted(folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb")):
        for data in wandb_records(path.read_bytes()):
            items = protocol.Record.FromString(data).history.item
            values = {each.nested_key[0]: float(each.value_json) for each in items}
            if values:
                history.append((int(values["_step"]), values["train/loss"]))
    return history


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Parse LevelDB's log format, after a header of 7 bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def read_mlflow(folder: Path, run_id: str) -> History:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params["seed"] == "42"
    return [(each.step, each.value) for each in client.get_metric_history(run_id, "train/loss")]


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in cli.TRACKERS]  # to start


@pytest.fixture(params=["stand-in", *_SLOW])
def tracker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, Callable[[Path, str], History]]:
    """Name of a tracker, and what reads the values of a run of it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
        return "wandb", read_stand_in
    return request.param, {"wandb": read_wandb, "mlflow": read_mlflow}[request.param]


def start(folder: Path, steps: range, *trackers: str, status: str | None = "failed") -> RunLog:
    """Log as a start of a run does that resumes at the first of the steps."""
    rows: Any = ()
    if steps.start:
        rows = rows_before(folder / "checkpoints/last.ckpt", {"global_step": steps.start})
    arguments = {"log_dir": folder, "seed": 42, "bands": None}
    opened = [Tracker(name, folder, arguments, rows) for name in trackers]
    log = RunLog(folder, rows, trackers=opened, on_error="continue")
    for step in steps:
        log.log_metrics({"train/loss": 0.5 * step, "epoch": step // 2}, step)
        log.save()
    if status is not None:
        log.finalize(status)
    return log


def the_id(folder: Path, name: str) -> str:
    run_id = json.loads((folder / "trackers.json").read_text())[name]["id"]
    assert isinstance(run_id, str)
    return run_id


EXPECTED = [(step, 0.5 * step) for step in range(6)]


def test_a_resumed_run_continues_its_run_and_doubles_no_step(
    tmp_path: Path, tracker: tuple[str, Callable[[Path, str], History]]
) -> None:
    name, read = tracker
    start(tmp_path, range(4), name)
    run_id = the_id(tmp_path, name)
    start(tmp_path, range(2, 6), name, status="success")
    assert the_id(tmp_path, name) == run_id
    assert read(tmp_path, run_id) == EXPECTED
    kept = {"metrics.csv", "trackers.json"} | {"mlflow": {"mlflow.db"}}.get(name, {"wandb"})
    assert {path.name for path in tmp_path.iterdir()} <= kept


def test_a_tracker_that_is_added_later_receives_what_was_logged_before(
    tmp_path: Path, stand_in: StandIn
) -> None:
    start(tmp_path, range(4))
    start(tmp_path, range(2, 6), "wandb", status="success")
    assert stand_in.received == {"run1": EXPECTED}
    assert stand_in.exit_codes == [0]
    (asked,) = stand_in.asked
    assert asked["project"] == "seco"
    assert asked["config"] == {"log_dir": str(tmp_path), "seed": 42, "bands": None}


@pytest.mark.parametrize("is_named", [True, False])
def test_a_tracker_receives_what_was_logged_without_it(
    tmp_path: Path, stand_in: StandIn, *, is_named: bool
) -> None:
    start(tmp_path, range(2), "wandb")
    stand_in.is_down = True
    start(tmp_path, range(2, 4), *(["wandb"] if is_named else []))
    stand_in.is_down = False
    start(tmp_path, range(3, 6), "wandb", status="success")
    assert stand_in.received == {"run1": EXPECTED}


def test_what_a_tracker_does_not_take_is_sent_later(
    tmp_path: Path, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.is_down = True
    log = start(tmp_path, range(3), "wandb", status=None)
    error = "cannot log to wandb, no route to host; the training continues\n"
    assert capsys.readouterr().err == error
    assert len((tmp_path / METRICS).read_text().splitlines()) == 4
    stand_in.is_down = False
    log.log_metrics({"train/loss": 1.5}, 3)
    log.finalize("success")
    assert stand_in.received == {"run1": EXPECTED[:4]}


def test_a_tracker_that_does_not_start_is_one_sentence(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ValueError("No API key configured.\nMore.")

    monkeypatch.setattr(stand_in, "init", refuse)
    with pytest.raises(UserError) as refused:
        Tracker("wandb", tmp_path, {"log_dir": tmp_path}, ())
    reason = "--logger wandb cannot start, No API key configured.: use wandb login, or WANDB_MODE="
    assert str(refused.value) == f"{reason}offline"
    (tmp_path / "trackers.json").write_text("{")
    with pytest.raises(UserError, match=r"trackers\.json is damaged: move it away"):
        Tracker("wandb", tmp_path, {"log_dir": tmp_path}, ())


@pytest.mark.parametrize("name", cli.TRACKERS)
def test_a_tracker_that_is_missing_names_its_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()  # wandb leaves such a folder, which Python takes for a package
    sizes = dict.fromkeys(("batch_size", "max_epochs", "learning_rate", "save_every_minutes"), 1)
    places = {"data_dir": tmp_path, "log_dir": tmp_path, "debug": False}
    args = Namespace(**sizes, **places, logger=["csv", name])
    for spec in (None, SimpleNamespace(origin=None)):
        monkeypatch.setattr("utils.cli.find_spec", lambda _, spec=spec: spec)
        with pytest.raises(UserError) as refused:
            cli.check_base_flags(args)
        assert str(refused.value) == f"--logger {name} is not installed: use pip install {name}"
