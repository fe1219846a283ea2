"""Number of processes that train together, and the settings of Lightning for them.

Processes are started by torchrun or SLURM, or by Lightning, whose first process starts the others
with its own command line when training begins.
"""

import logging
import multiprocessing
import os
import sys
import warnings
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.flags import Parser, check_positive
from utils.launchers import VARIABLES, Launcher, launcher, number_of

# torch and Lightning are imported by the functions that need them, after the flags are parsed.
if TYPE_CHECKING:
    from pytorch_lightning.plugins.environments import ClusterEnvironment


def add_launch_args(parser: Parser) -> None:
    """Add the flags of a run with several processes; ``--gpus`` is one per GPU and node."""
    add = parser.group("devices").add_argument
    add("--num_nodes", type=int, default=1, help="Number of machines.")
    processes = "Number of processes on each machine with --gpus 0; each GPU has one."
    add("--num_processes", type=int, default=1, help=processes)


@dataclass(frozen=True)
class World:
    """The processes of a run, known before they are connected.

    Attributes:
        num_nodes: Number of machines.
        per_node: Number of processes on each machine.
        rank: Number of this process among all, from 0.
    """

    num_nodes: int = 1
    per_node: int = 1
    rank: int = 0

    @property
    def size(self) -> int:
        """Number of processes that train together."""
        return self.num_nodes * self.per_node


def resolve_gpus(args: Namespace) -> None:
    """Set ``args.gpus`` if the flag was not given: 1 if there is a GPU, else 0.

    Raises:
        UserError: More GPUs are requested than there are.
    """
    import torch

    found = torch.cuda.device_count()
    if args.gpus is None:
        args.gpus = min(1, found)
    if args.gpus > found:
        raise UserError(
            f"--gpus {args.gpus} was requested, {found} found: use --gpus 0 for the CPU"
        )


def planned_world(args: Namespace) -> World:
    """Return the processes of the run, according to the flags and the launcher.

    Numbers that another launcher left in the environment are removed, because Lightning and LitData
    read them.

    Raises:
        UserError: The launcher contradicts the flags, or there are too few GPUs.
    """
    import torch

    resolve_gpus(args)
    # With the start method forkserver, the default from Python 3.14 on, the server imports torch
    # once for all loader processes.
    multiprocessing.set_forkserver_preload(["torch.utils.data"])
    check_positive(args, "num_nodes", "num_processes")
    if args.gpus and args.num_processes > 1:
        raise UserError("--num_processes is for the CPU, with --gpus 0: each GPU has one process")
    planned = World(args.num_nodes, args.gpus or args.num_processes)
    started_by = launcher()
    if started_by is None or started_by == "Lightning":
        world = _from_flags(planned)
    else:
        world = _from_launcher(started_by, planned)
    if args.gpus and world.per_node > torch.cuda.device_count():
        raise UserError(
            f"{world.per_node} processes need as many GPUs, {torch.cuda.device_count()} found: "
            "start fewer, or use --gpus 0 for the CPU"
        )
    return world


def check_alone(name: str) -> None:
    """Refuse several processes for work that runs in one."""
    size = planned_world(Namespace(num_nodes=1, num_processes=1, gpus=0)).size
    if size > 1:
        raise UserError(f"{name} trains in one process, but {size} were started: start only one")


def _from_launcher(started_by: Launcher, planned: World) -> World:
    """Refuse processes that do not match the flags: some would wait indefinitely for others."""
    rank, size = (int(os.environ[name]) for name in VARIABLES[started_by][:2])
    if started_by == "torchrun":
        per_node = int(os.environ["LOCAL_WORLD_SIZE"]) or 1
        world = World(size // per_node, per_node, rank)
        is_odd = rank >= size or world.size != size
        # Flags may repeat its numbers.
        matches = planned.num_nodes in (1, world.num_nodes) and planned.per_node in (1, per_node)
        found = f"torchrun started {world.num_nodes} x {per_node} processes"
        remedy = "leave the numbers to torchrun"
    else:
        world, is_odd = World(planned.num_nodes, planned.per_node, rank), rank >= size
        # Lightning compares these, too.
        numbers = [os.environ.get(f"SLURM_{name}", "?") for name in ("NNODES", "NTASKS_PER_NODE")]
        matches = size == 1 or numbers == [str(planned.num_nodes), str(planned.per_node)]
        found = f"SLURM started {size} tasks, {' nodes x '.join(numbers)} on each"
        remedy = f"use srun --nodes {planned.num_nodes} --ntasks-per-node {planned.per_node}"
    if is_odd:
        raise UserError(
            f"process {rank} of {size} is impossible: start with {started_by}, or unset "
            "TORCHELASTIC_RUN_ID and SLURM_PROCID"
        )
    if not matches or (started_by == "srun" and size != planned.size):
        raise UserError(
            f"{found}, but the flags ask for {planned.num_nodes} x {planned.per_node}: {remedy}"
        )
    return world


def _from_flags(planned: World) -> World:
    """Use the flags: Lightning starts the processes of a machine, the user those of several."""
    started_by = launcher()
    left_over = ["RANK"]
    if planned.size == 1 or not started_by or number_of("WORLD_SIZE") != planned.size:
        left_over.append("LOCAL_RANK")  # if it is set, Lightning starts no processes
    if planned.num_nodes == 1:  # a single machine has no number
        left_over += ["NODE_RANK", "GROUP_RANK"]
    for name in left_over:
        os.environ.pop(name, None)
    if planned.num_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(
            f"--num_nodes {planned.num_nodes} needs srun or torchrun; without them, start the "
            "script on every machine with MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment"
        )
    if planned.size > 1 and launcher() is None and hasattr(sys, "ps1"):
        raise UserError(
            f"a notebook or an interactive Python cannot start {planned.size} processes: run the "
            "script in a shell"
        )
    local_rank = number_of("LOCAL_RANK") or 0
    node_ranks = [number_of(name) for name in ("NODE_RANK", "GROUP_RANK") if name in os.environ]
    node_rank = node_ranks[0] if node_ranks else 0
    if node_rank is None or node_rank >= planned.num_nodes or local_rank >= planned.per_node:
        raise UserError(
            f"NODE_RANK={node_rank} and LOCAL_RANK={local_rank} are not among the "
            f"{planned.num_nodes} x {planned.per_node} processes of the flags: unset them, or "
            "change the flags"
        )
    return World(planned.num_nodes, planned.per_node, node_rank * planned.per_node + local_rank)


def launch_kwargs(world: World) -> dict[str, Any]:
    """Return the arguments of Lightning's ``Trainer`` for these processes.

    Buffers are not broadcast at every step: the queues are equal in all processes, because they
    start from one seed and receive the same keys, and each process has its own statistics of batch
    norm.
    """
    from pytorch_lightning.strategies import DDPStrategy
    from pytorch_lightning.utilities import rank_zero_only

    from utils.checkpoint import WholeCheckpointIO

    # Silence hints about devices and products; importing Lightning has set the level to INFO.
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # Lightning advises srun wherever it is installed, also in interactive shells.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # Lightning reads it from variables that may be left over.
    rank_zero_only.rank = world.rank  # type: ignore[attr-defined]
    if world.size > 1:
        _connect_restarted()
    strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return {
        "devices": world.per_node,
        "num_nodes": world.num_nodes,
        "strategy": strategy if world.size > 1 else "auto",
        "plugins": [_cluster_environment(), WholeCheckpointIO()],
        # In any job of SLURM Lightning loads hpc_ckpt_N.ckpt from this folder
        # (trainer/connectors/checkpoint_connector.py); a path that is not a folder holds none.
        "default_root_dir": os.devnull,
    }


def _connect_restarted() -> None:
    """Connect processes that torchrun has restarted, before Lightning does.

    Its store outlives a start: without a name of its own for each start, a process that comes first
    reads the address that another one had before (torch 2.15, distributed/rendezvous.py).
    """
    import torch.distributed as dist

    start = number_of("TORCHELASTIC_RESTART_COUNT")
    keeps_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if launcher() != "torchrun" or not start or not keeps_store or dist.is_initialized():
        return
    kept = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    rank, size = (int(os.environ[name]) for name in VARIABLES["torchrun"][:2])
    dist.init_process_group(store=dist.PrefixStore(f"{start}", kept), rank=rank, world_size=size)


def _cluster_environment() -> "ClusterEnvironment":
    """Return Lightning's object for the launcher, which never requeues a job."""
    from pytorch_lightning.plugins import environments

    started_by = launcher()
    if started_by == "torchrun":
        return environments.TorchElasticEnvironment()
    if started_by == "srun":
        return environments.SLURMEnvironment(auto_requeue=False)
    return environments.LightningEnvironment()


def batch_size_per_process(args: Namespace, world: World) -> int:
    """Return the batch size of one process: ``--accelerator dp`` splits ``--batch_size``.

    Lightning 2 has no ``dp``; ``ddp`` with a split batch takes the same steps, with the same
    batch-norm statistics per device.

    Args:
        args: Flags of the run.
        world: Processes of the run.

    Raises:
        UserError: The batch size is not a multiple of the number of processes.
    """
    if args.accelerator != "dp" or world.size == 1:
        return args.batch_size
    if args.batch_size % world.size:
        raise UserError(
            f"--batch_size {args.batch_size} is not a multiple of the {world.size} processes that "
            "--accelerator dp splits it over"
        )
    if world.rank == 0:
        warnings.warn("--accelerator dp runs as ddp with the batch split", stacklevel=2)
    return args.batch_size // world.size
