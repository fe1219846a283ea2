"""What launchers put into the environment of a process, by their own documentation.

- srun: https://slurm.schedmd.com/srun.html, "OUTPUT ENVIRONMENT VARIABLES".
- sbatch and salloc: https://github.com/SchedMD/slurm/blob/master/src/common/env.c,
  env_array_for_batch_job and env_array_for_job. SLURM_PROCID, SLURM_LOCALID and SLURM_NODEID are
  set for a batch script as well (setup_env), SLURM_STEP_ID only for what srun starts.
- torchrun: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables.
- Lightning: pytorch_lightning/strategies/launchers/subprocess_script.py, _call_children_scripts.
"""

import os

import pytest

PREFIXES = ("SLURM_", "TORCHELASTIC_")
OTHERS = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE"),
    *("LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ENVIRONMENT"),
)


def forget_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the machine that runs the tests may have set."""
    for name in (*filter(lambda name: name.startswith(PREFIXES), os.environ), *OTHERS):
        monkeypatch.delenv(name, raising=False)


def salloc(tasks: int, job_name: str = "seco") -> dict[str, str]:
    """Variables of the shell of ``salloc --ntasks``, and of a notebook that it starts."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": job_name,
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "n1",
        "SLURM_NTASKS": str(tasks),
        "SLURM_TASKS_PER_NODE": str(tasks),
    }


def sbatch(tasks: int) -> dict[str, str]:
    """Variables of the script of ``sbatch --ntasks``, which runs once."""
    numbers = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    return salloc(tasks) | numbers | {"ENVIRONMENT": "BATCH"}


def srun(
    tasks: int, rank: int = 0, *, nodes: int = 1, per_node: int | None = None
) -> dict[str, str]:
    """Variables of one task of ``srun``; ``per_node`` is its --ntasks-per-node."""
    on_node = tasks // nodes
    numbers = {
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": rank % on_node,
        "SLURM_NODEID": rank // on_node,
        "SLURM_NNODES": nodes,
        "SLURM_JOB_NUM_NODES": nodes,
        "SLURM_STEP_ID": 0,
        "SLURM_STEP_NUM_NODES": nodes,
        "SLURM_STEP_NUM_TASKS": tasks,
    }
    if per_node is not None:
        numbers["SLURM_NTASKS_PER_NODE"] = per_node
    return salloc(tasks) | {name: str(number) for name, number in numbers.items()}


def torchrun(size: int, per_node: int, rank: int) -> dict[str, str]:
    """Variables of one worker of ``torchrun --nproc_per_node``."""
    numbers = {
        "RANK": rank,
        "LOCAL_RANK": rank % per_node,
        "GROUP_RANK": rank // per_node,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": per_node,
        "MASTER_PORT": 29500,
    }
    texts = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "run"}
    return texts | {name: str(number) for name, number in numbers.items()}


def lightning(local_rank: int, size: int, node_rank: int = 0) -> dict[str, str]:
    """Variables of a process that Lightning's first process has started."""
    numbers = {"LOCAL_RANK": local_rank, "NODE_RANK": node_rank, "WORLD_SIZE": size}
    texts = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    return texts | {name: str(number) for name, number in numbers.items()}


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
