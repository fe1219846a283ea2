"""How many processes train together, and what Lightning needs to know about them.

Processes come from torchrun or SLURM, which start all of them, or from Lightning, whose first
process starts the others with its own command line when training begins.
"""

import os
import warnings
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError
from utils.flags import Parser, check_positive

# torch and Lightning are imported by the functions that need them, after the flags are parsed.


def add_launch_args(parser: Parser) -> None:
    """Add the flags of a run with several processes; ``--gpus`` is one per GPU and node."""
    add = parser.group("devices").add_argument
    add("--num_nodes", type=int, default=1, help="Machines that train together.")
    add(
        "--num_processes",
        type=int,
        default=1,
        help="Processes on each machine that train together on the CPU, with --gpus 0.",
    )


@dataclass(frozen=True)
class World:
    """The processes of a run, known before they are connected.

    Attributes:
        num_nodes: Machines.
        per_node: Processes of each machine.
        rank: Number of this process among all.
    """

    num_nodes: int = 1
    per_node: int = 1
    rank: int = 0

    @property
    def size(self) -> int:
        """Number of processes that train together."""
        return self.num_nodes * self.per_node


def launched_rank() -> int:
    """Return the number of this process as its launcher says, before processes are connected."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # torchrun, Lightning, SLURM
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def resolve_gpus(args: Namespace) -> None:
    """Replace ``--gpus`` if it was not given: 1 if there is a GPU, else 0; refuse missing GPUs."""
    import torch

    found = torch.cuda.device_count()
    if args.gpus is None:
        args.gpus = min(1, found)
    if args.gpus > found:
        raise UserError(
            f"--gpus {args.gpus} was asked for, {found} found: use --gpus 0 for the CPU"
        )


def planned_world(args: Namespace) -> World:
    """Tell the processes of the run from the flags or, if there is one, from their launcher."""
    import torch
    from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment

    resolve_gpus(args)
    check_positive(args, "num_nodes", "num_processes")
    if args.gpus and args.num_processes > 1:
        raise UserError("--num_processes is for the CPU, with --gpus 0: each GPU has one process")
    world = World(args.num_nodes, args.gpus or args.num_processes)
    if torch.distributed.is_torchelastic_launched():
        world = _from_torchrun(args, world)
    elif SLURMEnvironment.detect():
        world = _from_slurm(world)
    else:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        # One node has no number, though a cluster may have left one in the environment.
        node_rank = LightningEnvironment().node_rank() if world.num_nodes > 1 else 0
        rank = node_rank * world.per_node + local_rank
        world = World(world.num_nodes, world.per_node, rank)
    if args.gpus and world.per_node > torch.cuda.device_count():
        raise UserError(
            f"{world.per_node} processes need as many GPUs, {torch.cuda.device_count()} found: "
            "start fewer, or use --gpus 0 for the CPU"
        )
    return world


def _from_torchrun(args: Namespace, asked: World) -> World:
    """Read what torchrun tells its processes; flags may repeat its numbers, not contradict them."""
    size, per_node = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    world = World(size // per_node, per_node, int(os.environ["RANK"]))
    if asked.num_nodes not in (1, world.num_nodes) or asked.per_node not in (1, world.per_node):
        raise UserError(
            f"torchrun started {world.num_nodes} x {world.per_node} processes, but the flags ask "
            f"for {asked.num_nodes} x {asked.per_node}: leave {_flags(args)} to torchrun"
        )
    return world


def _from_slurm(asked: World) -> World:
    """Refuse another number of tasks than of processes: they would wait for each other for ever."""
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks != asked.size:
        raise UserError(
            f"SLURM started {tasks} tasks, but the flags ask for {asked.num_nodes} x "
            f"{asked.per_node} processes: use srun --nodes {asked.num_nodes} "
            f"--ntasks-per-node {asked.per_node}"
        )
    return World(asked.num_nodes, asked.per_node, int(os.environ["SLURM_PROCID"]))


def _flags(args: Namespace) -> str:
    return "--num_nodes and --gpus" if args.gpus else "--num_nodes and --num_processes"


def launch_kwargs(world: World) -> dict[str, Any]:
    """Translate to arguments of the Lightning ``Trainer``.

    Buffers are not sent from the first process to the others at every step: the queues are equal
    anyway, drawn from one seed and filled with the same keys, and statistics of batch norm are each
    process's own.
    """
    from pytorch_lightning.strategies import DDPStrategy

    strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return {
        "devices": world.per_node,
        "num_nodes": world.num_nodes,
        "strategy": strategy if world.size > 1 else "auto",
    }


def batch_size_per_process(args: Namespace, world: World) -> int:
    """Split the batch if asked for ``dp``, which did so and is gone in Lightning 2.

    ``ddp`` then takes the same steps, with the same per-device batch-norm statistics.
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
