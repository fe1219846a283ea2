r"""Pre-train a ResNet on unlabelled multi-season patches (Seasonal Contrast), or on any images.

Three embedding spaces from a folder of SeCo patches:
  python main_pretrain.py --data_dir datasets/seco_100k --data_mode seco \
    --base_encoder resnet18 --max_epochs 1000 --schedule 600 800

MoCo-v2 on a folder or zip of small pictures:
  python main_pretrain.py --data_dir EuroSAT_RGB.zip --image_list train.txt \
    --data_mode moco --preset small_images
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.seco.data_modes import DATA_MODES, add_data_args
from models.pretrain_args import (
    add_model_args,
    add_online_args,
    add_training_args,
    check_pretrain_flags,
)
from utils.cli import base_parser, check_base_flags, print_next, run, share_cores, trainer_kwargs
from utils.errors import UserError
from utils.files import check_exists
from utils.launch import (
    World,
    add_launch_args,
    batch_size_per_process,
    launch_kwargs,
    planned_world,
)
from utils.precision import resolve_precision
from utils.presets import PRESETS
from utils.report import provenance, run_dir_of_rank, write_results
from utils.resume import resumed_run_dir, with_flags_of_run
from utils.view_args import add_view_args, augment_config, check_view_flags

# torch and Lightning take seconds to import: whatever needs them is imported by the function that
# uses it, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import Callback

    from datasets.seco_datamodule import SecoDataModule
    from models.moco2_module import MocoV2
    from models.ssl_online import SSLOnlineEvaluator
    from utils.normalization import InputSpec

# Flags that a resumed run may set to other values: they do not describe what is learned.
MAY_CHANGE = (
    *("cache", "compile", "on_bad_patch", "schedule", "save_every_n_epochs", "log_every_n_steps"),
    *("online_data_dir", "online_max_epochs", "online_val_every_n_epoch"),
)


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(
        __doc__,
        max_epochs=200,
        batch_size=256,
        learning_rate=0.03,
    )
    parser.group("training").add_argument(
        "--preset", choices=PRESETS, default="seco", help="Set of defaults for a kind of data."
    )
    add_data_args(parser)
    add_view_args(parser)
    add_model_args(parser)
    add_training_args(parser)
    add_launch_args(parser)
    add_online_args(parser)
    given = parser.parse_given(with_flags_of_run(parser, argv, MAY_CHANGE))
    parser.set_defaults(**PRESETS[given.get("preset", "seco")])
    return parser.with_defaults(given)


def main(argv: Sequence[str] | None = None) -> Trainer:
    """Run the pre-training and return its trainer, for tests."""
    started = time.perf_counter()
    args = parse_args(argv)
    check_flags(args)
    world = prepare(args)
    from datasets.store.hint import packing_hint
    from utils.checkpoint import check_resumable

    datamodule = make_datamodule(args, world)
    datamodule.setup("fit")
    if world.rank == 0:
        hints = (
            datamodule.crop_warning(),
            packing_hint(datamodule.dataset.source, args.data_dir),
        )
        for hint in hints:
            if hint is not None:
                print(hint, file=sys.stderr)
    # Logging waits for the device, so it is rare; a short run logs every epoch at least.
    steps_per_epoch = datamodule.steps_per_epoch(world.size)
    args.log_every_n_steps = min(args.log_every_n_steps, steps_per_epoch)
    samples_per_step = datamodule.batch_size * world.size
    model = make_model(args, datamodule, samples_per_step)
    if args.resume_from_checkpoint is not None:
        check_resumable(
            args.resume_from_checkpoint, model.hparams, samples_per_step, args.max_epochs
        )

    online = make_online_evaluator(args, world, datamodule.input_spec)
    name = f"pretrain-{args.data_mode}-{args.base_encoder}"  # what is learned
    run_dir = resumed_run_dir(args) or run_dir_of_rank(args, name, world.rank)
    callbacks = [*make_callbacks(args, world, datamodule, run_dir), *online]
    trainer = make_trainer(args, world, callbacks, run_dir)
    trainer.fit(model, datamodule, ckpt_path=args.resume_from_checkpoint)
    if run_dir is not None and trainer.is_global_zero:
        finish(args, trainer, run_dir, started)
    return trainer


def prepare(args: Namespace) -> World:
    """Resolve the flags, share the cores, seed all generators."""
    from pytorch_lightning import seed_everything

    from datasets.store.reader import is_packed

    world = planned_world(args)
    resolve_precision(args, world.rank)
    # The threads that read a packed store only copy, a hundredth of the time.
    share_cores(args.gpus, world.per_node, 0 if is_packed(args.data_dir) else args.num_workers)
    seed_everything(args.seed, verbose=False)
    return world


def check_flags(args: Namespace) -> None:
    """Refuse flags that cannot work, before anything is read or written."""
    check_base_flags(args)
    check_view_flags(args)
    check_exists("image_list", args.image_list)
    check_pretrain_flags(args)


def make_datamodule(args: Namespace, world: World) -> SecoDataModule:
    """Describe the data and the views; keys are shuffled where a batch has several parts."""
    from datasets.seco_datamodule import SecoDataModule

    return SecoDataModule(
        args.data_dir,
        args.data_mode,
        bands=args.bands,
        batch_size=batch_size_per_process(args, world),
        num_workers=args.num_workers,
        seed=args.seed,
        augment=augment_config(args),
        replace_dates=args.protocol == "paper",
        on_bad_patch=args.on_bad_patch,
        image_list=args.image_list,
        log_dir=None,
        cache=args.cache,
        shuffle_keys=world.size > 1 or args.bn_group_size > 0,
    )


def make_model(args: Namespace, datamodule: SecoDataModule, samples_per_step: int) -> MocoV2:
    """Build the model for the data; a queue or a group that does not fit a batch is an error."""
    import torch

    from models.moco2_module import MocoV2

    if args.num_negatives < samples_per_step:
        raise UserError(
            f"a queue of --num_negatives {args.num_negatives} is smaller than the "
            f"{samples_per_step} keys of a step: raise it, or lower --batch_size"
        )
    if args.bn_group_size > datamodule.batch_size:
        raise UserError(
            f"--bn_group_size {args.bn_group_size} is more than the {datamodule.batch_size} images "
            "of a batch: lower it, or 0 for the whole batch"
        )
    model = MocoV2(
        args.base_encoder,
        args.emb_dim,
        args.num_negatives,
        datamodule.mode.emb_spaces,
        encoder_momentum=args.encoder_momentum,
        softmax_temperature=args.softmax_temperature,
        learning_rate=args.learning_rate,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        schedule=args.schedule,
        lr_schedule=args.lr_schedule,
        warmup_epochs=args.warmup_epochs,
        in_channels=len(datamodule.input_spec.bands),
        bn_group_size=args.bn_group_size,
        log_every_n_steps=args.log_every_n_steps,
        input_spec=datamodule.input_spec.to_dict(),
    )
    if args.compile:  # in place: the names of the tensors stay
        model.encoder_q.compile()
        model.encoder_k.compile()
    return model.to(memory_format=torch.channels_last)


def make_callbacks(
    args: Namespace, world: World, datamodule: SecoDataModule, run_dir: Path | None
) -> list[Callback]:
    """Return what happens around the steps; without a run folder nothing is written."""
    from utils import callbacks

    happens: list[Callback] = [
        callbacks.EndTogether(),
        callbacks.SampleProgress("pre-training"),
        callbacks.FiniteLoss(),
    ]
    if run_dir is not None:
        datamodule.log_dir = run_dir if world.rank == 0 else None
        spec, labels = datamodule.input_spec, datamodule.mode.view_labels
        views = callbacks.ViewsPicture(run_dir / "views.png", spec, labels, datamodule.dates)
        happens.append(views)
        folder, every = run_dir / "checkpoints", args.save_every_n_epochs
        happens.append(callbacks.SaveCheckpoints(folder, provenance(args), every))
    return happens


def make_online_evaluator(
    args: Namespace, world: World, spec: InputSpec
) -> list[SSLOnlineEvaluator]:
    """Read the labelled pictures in the first process, which probes alone; none without data."""
    if args.online_data_dir is None:
        return []
    from datasets.online_data import read_online_data
    from models.ssl_online import SSLOnlineEvaluator

    pictures = None
    if world.rank == 0:
        pictures = read_online_data(args.online_data_dir, spec, args.num_workers)
    return [
        SSLOnlineEvaluator(
            pictures,
            max_epochs=args.online_max_epochs,
            every_n_epochs=args.online_val_every_n_epoch,
            seed=args.seed,
            precision=args.precision,
        )
    ]


def make_trainer(
    args: Namespace, world: World, callbacks: list[Callback], run_dir: Path | None
) -> Trainer:
    """Configure Lightning; without a run folder nothing is logged or saved."""
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import Logger, TensorBoardLogger

    from utils.run_trainer import csv_logger

    arguments = trainer_kwargs(args) | launch_kwargs(world)
    logger: list[Logger] = []
    if run_dir is not None:  # loggers write in the first process only: it is known by now
        logger = [
            csv_logger(run_dir, args.resume_from_checkpoint),
            TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False),
        ]
    return Trainer(
        **arguments,
        logger=logger or False,
        callbacks=callbacks,
        log_every_n_steps=args.log_every_n_steps,
        use_distributed_sampler=False,  # ours draws from (seed, epoch)
        enable_progress_bar=False,  # ours counts samples
        enable_checkpointing=run_dir is not None,
        enable_model_summary=False,
        benchmark=True,
    )


def finish(args: Namespace, trainer: Trainer, run_dir: Path, started: float) -> None:
    """Draw the curves, write results.json and print the closing lines."""
    from utils.normalization import PICTURE_BANDS, letters
    from utils.plots import plot_training

    spaces = DATA_MODES[args.data_mode].space_names
    plot_training(run_dir / "curves.png", run_dir / "metrics.csv", spaces)
    metrics = {name: float(value) for name, value in trainer.logged_metrics.items()}
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    last = run_dir / "checkpoints" / "last.ckpt"
    write_results(run_dir / "results.json", args, metrics, started, last)
    is_rgb = letters(args.bands) == PICTURE_BANDS or args.data_mode == "moco"
    labelled = args.online_data_dir or ("EuroSAT_RGB.zip" if is_rgb else "EuroSATallBands.zip")
    script = "main_eurosat.py"
    print_next(script, "--data_dir", labelled, "--backbone_type", "pretrain", "--ckpt_path", last)


if __name__ == "__main__":
    run(main)
