"""Environment variables with which launchers number processes, and which process fails first.

Variables may be left over from another launcher, for example in the shell of an interactive job. A
process is one of several only if all variables of its launcher are set and consistent.
"""

import os
import socket
import sys
import time
from datetime import timedelta
from typing import Literal

# Time for the launcher to end a process that fails only because another one did.
GRACE_S = 5.0

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


def is_first_to_fail() -> bool:
    """Return whether no other process of a training has failed before, so that one error is shown.

    The store of the connected processes remembers the first one. Processes that are not connected
    yet fail alike: the first one answers at once, and its end ends the others, which wait.
    """
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        if launched_rank() > 0:
            time.sleep(GRACE_S)
        return True
    if dist.get_world_size() == 1:
        return True
    start, own = os.environ.get("TORCHELASTIC_RESTART_COUNT", ""), str(dist.get_rank())
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection(place, GRACE_S).close()  # torch fills pages if nobody answers
        limit = timedelta(seconds=GRACE_S)
        store = dist.TCPStore(*place, is_master=False, timeout=limit, wait_for_workers=False)
        return bool(store.compare_set(f"first to fail {start}", "", own) == own.encode())
    except (LookupError, ValueError, OSError, RuntimeError):
        return True  # the process with the store has ended


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
