"""A few of the trials that stop and resume pre-trainings anywhere."""

from pathlib import Path

import pytest
import torch

from benchmarks import reliability_resume
from benchmarks.reliability_resume import COUNT, OTHERS, SETTINGS, part


@pytest.mark.slow
@pytest.mark.parametrize("number", [5, 40, COUNT - 1])
def test_a_trial_resumes_exactly(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "trials"
    (trial,) = part(number, number + 1, folder)
    assert trial.failure is None, trial


def test_a_trial_is_not_compared_with_a_run_of_an_earlier_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code may have been another: one trial failed by the text of NumPy's random state."""
    monkeypatch.setattr(reliability_resume, "_make_data", lambda _: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    (tmp_path / "whole" / "moco-zip-0-1").mkdir(parents=True)
    assert not list(part(0, 0, tmp_path))
    assert not (tmp_path / "whole").exists()


def test_the_trials_cover_every_setting() -> None:
    assert len(SETTINGS) == 48
    assert COUNT == 3 * 48 + len(OTHERS) == 153
