"""Processes that launchers number, and numbers that they left over."""

import pytest

from tests.references.launcher_variables import (
    forget_launchers,
    lightning,
    salloc,
    sbatch,
    srun,
    torchrun,
)
from utils.launchers import launched_rank, launcher


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_launchers(monkeypatch)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (None, 0)),
        (torchrun(4, 2, rank=3), ("torchrun", 3)),
        (srun(4, 2, nodes=2, per_node=2), ("srun", 2)),
        (srun(1), ("srun", 0)),
        (srun(2, 1) | {"SLURM_JOB_NAME": "interactive"}, ("srun", 1)),  # srun within salloc
        (lightning(1, 2), ("Lightning", 1)),
        (srun(1) | torchrun(2, 2, rank=1), ("torchrun", 1)),
        (srun(1) | lightning(1, 2), ("srun", 0)),
        (sbatch(4) | lightning(1, 2), ("Lightning", 1)),
    ],
)
def test_launchers_number_their_processes(
    variables: dict[str, str], expected: tuple[str | None, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launcher(), launched_rank()) == expected


@pytest.mark.parametrize(
    "variables",
    [
        salloc(2),
        salloc(2, "interactive"),
        srun(1) | {"SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "2"},  # srun --pty bash
        {"LOCAL_RANK": "1", "MASTER_PORT": "29500"},
        sbatch(4),
        {"SLURM_PROCID": "1"},
        {"LOCAL_RANK": "1"},
        {"LOCAL_RANK": "one", "MASTER_PORT": "29500"},
        {"RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "1", "LOCAL_RANK": "1", "NODE_RANK": "1", "GROUP_RANK": "1"},
        {"TORCHELASTIC_RUN_ID": "run", "LOCAL_RANK": "1"},
    ],
    ids=str,
)
def test_numbers_that_no_launcher_completes_are_of_one_process(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launcher(), launched_rank()) == (None, 0)


@pytest.mark.parametrize("variables", [torchrun(2, 2, rank=2), srun(2, 2)])
def test_a_number_that_is_not_below_the_size_is_no_rank(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_rank() == 0
