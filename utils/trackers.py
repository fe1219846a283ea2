"""Runs of Weights & Biases and of MLflow: they receive each logged value once, also if resumed."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import NOT_AS_WRITTEN, UserError, printable, quoted
from utils.report import write_json
from utils.run_log import Row

_STATES = "trackers.json"  # per tracker the id of its run, the last step sent, names of its values
_PROJECT = "seco"  # of Weights & Biases, and experiment of MLflow


class Tracker:
    """A run of a tracker; a start that resumes its folder continues it.

    Args:
        name: "wandb" or "mlflow".
        folder: Folder of the run.
        arguments: Flags of the run.
        rows: Rows of the resumed run, of which the tracker may lack some.

    Raises:
        UserError: The tracker does not begin or continue a run.
    """

    def __init__(
        self, name: str, folder: Path, arguments: Mapping[str, Any], rows: Sequence[Row]
    ) -> None:
        self.name, self._path = name, folder / _STATES
        state = _read_states(self._path).get(name, {})
        plain = json.loads(json.dumps(dict(arguments), default=str))
        title = os.path.relpath(folder, arguments["log_dir"])
        self._is_failing = self._is_finished = False
        # The last step that the tracker has received, and the names of its values.
        self._last = self._before = int(state.get("step", -1)), set(state.get("names", ()))
        self._rows: list[Row] = []  # not sent yet
        for row in rows:
            self.add({key: value for key, value in row.items() if key != "step"}, int(row["step"]))
        try:
            self._run = _RUNS[name](folder, title, plain, state.get("id"))
        except Exception as error:  # libraries and their services raise many kinds
            reason, remedy = quoted(_first_line(error), 300), _REMEDIES[name]
            raise UserError(f"--logger {name} cannot start, {reason}: {remedy}") from error
        self._keep_state()

    def add(self, metrics: Row, step: int) -> None:
        """Take values, which ``send`` passes on unless an earlier start did.

        Args:
            metrics: Values by name.
            step: Step that they describe.
        """
        last, names = self._before
        sent = metrics.keys() if step < last else names if step == last else ()
        if new := {key: value for key, value in metrics.items() if key not in sent}:
            self._rows.append({**new, "step": step})

    def send(self) -> None:
        """Pass on what is not sent yet; what the tracker does not take is sent with the next."""
        if not self._rows:
            return
        try:
            while self._rows:
                values = dict(self._rows[0])
                step = int(values.pop("step"))
                self._run.log(values, step)
                del self._rows[0]
                last, names = self._last
                self._last = step, {*values, *(names if step == last else ())}
            self._keep_state()
        except Exception as error:  # as above; metrics.csv has the values, and the run continues
            self._report(error)
        else:
            self._is_failing = False

    def finish(self, *, is_complete: bool) -> None:
        """End the run of the tracker, once.

        Args:
            is_complete: Whether the training came to its end.
        """
        if self._is_finished:
            return
        self.send()
        self._is_finished = True
        try:
            self._run.finish(is_complete)
        except Exception as error:  # as above
            self._report(error)

    def _keep_state(self) -> None:
        step, names = self._last
        state = {"id": self._run.id, "step": step, "names": sorted(names)}
        write_json(self._path, _read_states(self._path) | {self.name: state})

    def _report(self, error: Exception) -> None:
        if not self._is_failing:
            text = f"cannot log to {self.name}, {_first_line(error)}; the training continues"
            tqdm.write(printable(text), file=sys.stderr)
        self._is_failing = True


class _WandbRun:
    """Online unless WANDB_MODE is offline; its files are in the folder of the run."""

    def __init__(
        self, folder: Path, title: str, arguments: dict[str, Any], run_id: str | None
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=title,
            dir=folder,
            config=arguments,
            id=run_id,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(console="off"),
        )
        self.id = self._run.id

    def log(self, values: dict[str, Any], step: int) -> None:
        self._run.log(values, step=step)

    def finish(self, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)


class _MlflowRun:
    """In the store that MLFLOW_TRACKING_URI names, else in ``mlflow.db`` in ``--log_dir``."""

    def __init__(
        self, folder: Path, title: str, arguments: dict[str, Any], run_id: str | None
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to its makers
        from mlflow import MlflowClient
        from mlflow.entities import Param

        log_dir, uri = Path(arguments["log_dir"]).absolute(), os.environ.get("MLFLOW_TRACKING_URI")
        self._client = client = MlflowClient(uri or f"sqlite:///{log_dir}/mlflow.db")
        if run_id is None:
            project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            files = None if uri else f"{log_dir}/mlruns"  # else in the working directory
            known = client.get_experiment_by_name(project)
            experiment = known.experiment_id if known else client.create_experiment(project, files)
            self.id = client.create_run(experiment, run_name=title).info.run_id
            params = [Param(name, str(value)) for name, value in arguments.items()]
            client.log_batch(self.id, params=params)
        else:
            self.id = run_id
            client.update_run(run_id, status="RUNNING")

    def log(self, values: dict[str, Any], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def finish(self, is_complete: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if is_complete else "KILLED")


_RUNS: dict[str, Any] = {"wandb": _WandbRun, "mlflow": _MlflowRun}
_REMEDIES = {
    "wandb": "use wandb login, or WANDB_MODE=offline",
    "mlflow": "correct MLFLOW_TRACKING_URI, or unset it for a file in --log_dir",
}


def _read_states(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        return {
            name: {
                "id": str(state["id"]),
                "step": int(state["step"]),
                "names": list(map(str, state["names"])),
            }
            for name, state in json.loads(path.read_text()).items()
        }
    except NOT_AS_WRITTEN as error:
        raise UserError(f"{path} is damaged: move it away, and trackers begin new runs") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
