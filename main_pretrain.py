r"""Pre-train a ResNet on unlabelled multi-season patches (Seasonal Contrast), or on any images.

Three embedding spaces from a folder of SeCo patches:
  python main_pretrain.py --data_dir data/seco_100k_packed --preset seco_100k

MoCo-v2 on a folder or zip of small pictures:
  python main_pretrain.py --data_dir EuroSAT_RGB.zip --image_list train.txt \
    --preset small_images
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets.seco.data_modes import add_data_args
from models import pretrain_args as flags
from models.presets import DEFAULT, PRESETS
from utils.cli import base_parser, run, share_cores
from utils.launch import World, add_launch_args, batch_size_per_process
from utils.report import run_dir_of_rank
from utils.resume import resumed_run_dir, with_flags_of_run

# torch and Lightning take seconds to import: what needs them is imported by the function that uses
# it, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from datasets.seco_datamodule import SecoDataModule
    from models.moco2_module import MocoV2


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(__doc__, max_epochs=200, batch_size=256, learning_rate=0.03)
    for add_args in (add_data_args, flags.add_view_args, add_launch_args, flags.add_pretrain_args):
        add_args(parser)
    given = parser.parse_given(with_flags_of_run(parser, argv, flags.MAY_CHANGE))
    parser.set_defaults(**PRESETS[given.get("preset", DEFAULT)])
    return parser.with_defaults(given)


def main(argv: Sequence[str] | None = None) -> Trainer:
    """Run the pre-training and return its trainer, for tests."""
    started = time.perf_counter()
    args = parse_args(argv)
    flags.check_pretrain_flags(args)
    from models.pretrain_plan import dry_run
    from models.pretrain_run import PretrainPictures, pretrain_trainer, write_pretrain_results
    from utils.locks import sole_run
    from utils.restored import fit
    from utils.training import prepare

    world = prepare(args)
    datamodule = make_datamodule(args, world)
    share_cores(args.gpus, world.per_node, datamodule.num_loaders)
    for hint in datamodule.hints(args.num_negatives, world.size) if world.rank == 0 else ():
        print(hint, file=sys.stderr)
    model = make_model(args, datamodule, world)
    callbacks, evaluation = make_callbacks(args, world, datamodule)
    if args.dry_run:
        sizes = len(datamodule.dataset), datamodule.steps_per_epoch(world.size)
        return dry_run(args, world, model, datamodule, *sizes)
    name = f"pretrain-{args.data_mode}-{args.base_encoder}"  # what is learned
    run_dir = resumed_run_dir(args) or run_dir_of_rank(args, name, world.rank)
    spec, mode = datamodule.input_spec, datamodule.mode
    if run_dir is not None:
        datamodule.log_dir = run_dir
        titles = (mode.view_labels, mode.space_names)
        callbacks.append(PretrainPictures(run_dir, spec, *titles, datamodule.dates))
    training = datamodule.facts(world.size)
    with sole_run(run_dir if world.rank == 0 else None):
        trainer = pretrain_trainer(args, world, callbacks, run_dir, training=training)
        fit(trainer, model, datamodule, resumed=args.resume_from_checkpoint)
        if run_dir is not None and trainer.is_global_zero:
            facts = {"data": datamodule.dataset.describe(), "training": training}
            names = mode.space_names
            write_pretrain_results(args, trainer, run_dir, started, evaluation, names, facts)
    return trainer


def make_datamodule(args: Namespace, world: World) -> SecoDataModule:
    """Open the data, and describe samples, views and batches."""
    from datasets.seco_datamodule import SecoDataModule

    datamodule = SecoDataModule(
        **flags.values(args, flags.OF_DATA),
        batch_size=batch_size_per_process(args, world),
        augment=flags.augment_config(args),
        replace_dates=args.protocol == "paper",
        shuffle_keys=world.size > 1 or args.bn_group_size > 0,
    )
    datamodule.setup("fit")
    # Logging waits for the device, so it is rare; a short run logs every epoch at least.
    steps_per_epoch = datamodule.steps_per_epoch(world.size)
    args.log_every_n_steps = min(args.log_every_n_steps, steps_per_epoch)
    return datamodule


def make_model(args: Namespace, datamodule: SecoDataModule, world: World) -> MocoV2:
    """Build encoders, heads and queues; a checkpoint to resume must fit them."""
    import torch

    from models.moco2_module import MocoV2
    from models.pretrain_run import checkpoint_to_resume

    flags.check_batch(args, datamodule.batch_size, world.size)
    model = MocoV2(
        **flags.values(args, flags.OF_MODEL),
        emb_spaces=datamodule.num_keys,
        in_channels=len(datamodule.input_spec.bands),
        input_spec=datamodule.input_spec.to_dict(),
    )
    samples_per_step = datamodule.batch_size * world.size
    args.resume_from_checkpoint = checkpoint_to_resume(args, model, samples_per_step)
    if args.compile:  # in place: the names of the tensors stay
        model.encoder_q.compile()
        model.encoder_k.compile()
    return model.to(memory_format=torch.channels_last)


def make_callbacks(
    args: Namespace, world: World, datamodule: SecoDataModule
) -> tuple[list[Callback], Sequence[str]]:
    """Watch the steps, and probe the encoder if labelled pictures are given.

    Returns:
        The callbacks, and the command that evaluates the encoder on these pictures.
    """
    from models.bad_steps import BadSteps, CollapseWarning

    watchers: list[Callback] = [BadSteps(args.max_bad_steps), CollapseWarning()]
    if args.online_data_dir is None:
        return watchers, ()
    from datasets.online_data import evaluation_command, read_online_data
    from models.ssl_online import SSLOnlineEvaluator

    pictures = None
    if world.rank == 0:  # probes alone
        pictures = read_online_data(args.online_data_dir, datamodule.input_spec, args.num_workers)
    online = SSLOnlineEvaluator(
        pictures,
        max_epochs=args.online_max_epochs,
        every_n_epochs=args.online_val_every_n_epoch,
        seed=args.seed,
        precision=args.precision,
    )
    return [*watchers, online], evaluation_command(args.online_data_dir)


if __name__ == "__main__":
    run(main)
