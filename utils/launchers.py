"""Environment variables with which launchers number the processes that they start.

Variables may be left over from another launcher, for example in the shell of an interactive job. A
process is one of several only if all variables of its launcher are set and consistent.
"""

import os
from typing import Literal

Launcher = Literal["torchrun", "srun", "Lightning"]

# Number of a process, number of all processes (with Lightning the flags have it), and what else the
# launcher sets. torchrun: https://docs.pytorch.org/docs/stable/elastic/run.html; srun:
# https://slurm.schedmd.com/srun.html, "OUTPUT ENVIRONMENT VARIABLES"; Lightning's first process, or
# a user: pytorch_lightning/strategies/launchers/subprocess_script.py.
VARIABLES: dict[Launcher, tuple[str, str, str]] = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NTASKS"),
    "Lightning": ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"),
}
# Jobs that are shells, by the names that Lightning's SLURMEnvironment knows.
_INTERACTIVE_JOBS = ("bash", "interactive")


def number_of(name: str) -> int | None:
    """Return the value of an environment variable if it is a whole number >= 0, else None."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else None


def launcher() -> Launcher | None:
    """Return the launcher of this process; None if the process was started alone."""
    for name, variables in VARIABLES.items():
        is_set = None not in map(number_of, variables)
        if name == "torchrun":
            is_set = is_set and "TORCHELASTIC_RUN_ID" in os.environ
        if is_set and not (name == "srun" and _is_only_process_of_job()):
            return name
    return None


def launched_rank() -> int:
    """Return the number of this process among those of its launcher, before they are connected.

    It is 0 without a launcher, and for a number that is left over: not below that of all processes.
    """
    started_by = launcher()
    if started_by is None:
        return 0
    rank, size = (number_of(name) or 0 for name in VARIABLES[started_by][:2])
    return rank if started_by == "Lightning" or rank < size else 0


def _is_only_process_of_job() -> bool:
    """Recognise shells and batch scripts of SLURM, which run once for any number of tasks.

    Batch scripts have SLURM_PROCID, but only processes of srun have SLURM_STEP_ID:
    https://github.com/SchedMD/slurm/blob/master/src/common/env.c, setup_env and
    env_array_for_batch_job.
    """
    if (number_of("SLURM_STEP_NUM_TASKS") or 1) > 1:  # srun within an interactive job
        return False
    is_batch = os.environ.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in os.environ
    return is_batch or os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE_JOBS
