"""A few of the trials that stop and resume pre-trainings anywhere."""

from pathlib import Path

import pytest

from benchmarks.reliability_resume import COUNT, OTHERS, SETTINGS, part


@pytest.mark.slow
@pytest.mark.parametrize("number", [5, 40, COUNT - 1])
def test_a_trial_resumes_exactly(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "trials"
    (trial,) = part(number, number + 1, folder)
    assert trial.failure is None, trial


def test_the_trials_cover_every_setting(tmp_path: Path) -> None:
    assert len(SETTINGS) == 48
    assert COUNT == 3 * 48 + len(OTHERS) == 153
