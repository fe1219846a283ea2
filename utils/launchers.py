"""Environment variables with which launchers number the processes that they start.

Variables may be left over from another launcher, for example in the shell of an interactive job. A
process is one of several only if all variables of its launcher are set and consistent.
"""

import os
from typing import Literal

Launcher = Literal["torchrun", "srun", "Lightning"]

# https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
# https://slurm.schedmd.com/srun.html, "OUTPUT ENVIRONMENT VARIABLES"
_SRUN = ("SLURM_PROCID", "SLURM_NTASKS")
# Set by Lightning's first process for the others (strategies/launchers/subprocess_script.py), or by
# hand. Processes find each other through the port.
_LIGHTNING = ("LOCAL_RANK", "MASTER_PORT", "WORLD_SIZE")
# Jobs that are shells, by the names that Lightning's SLURMEnvironment knows.
_INTERACTIVE_JOBS = ("bash", "interactive")


def number_of(name: str) -> int | None:
    """Return the value of an environment variable if it is a whole number >= 0, else None."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else None


def launcher() -> Launcher | None:
    """Return the launcher of this process; None if the process was started alone."""
    if "TORCHELASTIC_RUN_ID" in os.environ and _are_set(_TORCHRUN):
        return "torchrun"
    if _are_set(_SRUN) and not _is_only_process_of_job():
        return "srun"
    return "Lightning" if _are_set(_LIGHTNING) else None


def launched_rank() -> int:
    """Return the number of this process among those of its launcher; 0 without a launcher.

    It is known before the processes are connected. A number that is not below the number of
    processes is left over from another launcher and counts as 0.
    """
    started_by = launcher()
    if started_by is None:
        return 0
    rank, size = {
        "torchrun": (number_of("RANK"), number_of("WORLD_SIZE")),
        "srun": (number_of("SLURM_PROCID"), number_of("SLURM_NTASKS")),
        "Lightning": (number_of("LOCAL_RANK"), None),  # the flags have the size
    }[started_by]
    return rank if rank is not None and (size is None or rank < size) else 0


def _are_set(names: tuple[str, ...]) -> bool:
    return all(number_of(name) is not None for name in names)


def _is_only_process_of_job() -> bool:
    """Recognise shells and batch scripts of SLURM, which run once, whatever the number of tasks.

    Batch scripts have SLURM_PROCID, but only processes of srun have SLURM_STEP_ID:
    https://github.com/SchedMD/slurm/blob/master/src/common/env.c, setup_env and
    env_array_for_batch_job.
    """
    if (number_of("SLURM_STEP_NUM_TASKS") or 1) > 1:  # srun within an interactive job
        return False
    is_batch = os.environ.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in os.environ
    return is_batch or os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE_JOBS
