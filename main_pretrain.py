r"""Pre-train a ResNet on unlabelled multi-season patches (Seasonal Contrast), or on any images.

Three embedding spaces from a folder of SeCo patches:
  python main_pretrain.py --data_dir datasets/seco_100k --data_mode seco \
    --base_encoder resnet18 --max_epochs 1000 --schedule 600 800

MoCo-v2 on a folder or zip of small pictures:
  python main_pretrain.py --data_dir EuroSAT_RGB.zip --image_list train.txt \
    --data_mode moco --preset small_images
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from datasets.bands import RGB_BANDS
from datasets.online_data import read_online_data
from datasets.packed_store import is_packed
from datasets.packing_hint import packing_hint
from datasets.seco_datamodule import DATA_MODES, SecoDataModule
from models.moco2_module import MocoV2
from models.schedule import SCHEDULES
from models.ssl_online import SSLOnlineEvaluator, add_online_args
from utils.callbacks import EndTogether, FiniteLoss, SampleProgress, SaveCheckpoints, ViewsPicture
from utils.checkpoint import WholeCheckpointIO, check_resumable
from utils.cli import (
    base_parser,
    check_base_flags,
    check_not_negative,
    check_positive,
    run,
    share_cores,
    trainer_kwargs,
)
from utils.errors import UserError
from utils.launch import (
    World,
    add_launch_args,
    batch_size_per_process,
    launch_kwargs,
    planned_world,
)
from utils.normalization import InputSpec
from utils.plots import plot_training
from utils.precision import resolve_precision
from utils.presets import PRESETS
from utils.report import provenance, run_dir_of_rank, write_results
from utils.view_args import add_view_args, augment_config, check_view_flags


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(
        __doc__,
        max_epochs=200,
        batch_size=256,
        learning_rate=0.03,
    )
    add_launch_args(parser)
    _add_data_args(parser)
    _add_model_args(parser)
    add_online_args(parser)
    parser.add_argument("--preset", choices=PRESETS, default="seco", help="set of defaults")
    preset = parser.parse_known_args(argv)[0].preset
    parser.set_defaults(**PRESETS[preset])
    return parser.parse_args(argv)


def _add_data_args(parser: ArgumentParser) -> None:
    """Add the flags of the patches and their views."""
    add = parser.add_argument
    add("--data_mode", choices=DATA_MODES, default="seco", help="which views are contrasted")
    add("--bands", nargs="+", default=list(RGB_BANDS), help="bands of SeCo patches, in order")
    add("--cache", choices=["mmap", "ram", "gpu"], default="mmap", help="memory of a packed store")
    add("--image_list", type=Path, help="file with the images to use, for --data_mode moco")
    add("--on_bad_patch", choices=["raise", "skip"], default="raise", help="unreadable patches")
    add_view_args(parser)


def _add_model_args(parser: ArgumentParser) -> None:
    """Add the flags of the model and its training."""
    add = parser.add_argument
    add("--base_encoder", default="resnet18", help="any torchvision ResNet")
    add("--emb_dim", type=int, default=128, help="size of the embeddings")
    add("--num_negatives", type=int, default=16384, help="length of the queue of each space")
    add("--encoder_momentum", type=float, default=0.999, help="momentum of the key encoder")
    add("--softmax_temperature", type=float, default=0.07, help="divisor of the similarities")
    add("--bn_group_size", type=int, default=0, help="images per batch-norm group, 0 = all")
    add("--momentum", type=float, default=0.9, help="momentum of SGD")
    add("--weight_decay", type=float, default=1e-4, help="weight decay of SGD")
    add("--schedule", type=int, nargs="*", default=[120, 160], help="epochs of the x0.1 steps")
    add("--lr_schedule", choices=SCHEDULES, default="step", help="shape of the learning rate")
    add("--warmup_epochs", type=float, default=0, help="epochs of linear warm-up")
    add("--compile", action="store_true", help="compile the encoders; pays off on a GPU")
    add("--save_every_n_epochs", type=int, default=50, help="epochs between kept checkpoints")
    add("--log_every_n_steps", type=int, default=50, help="steps between logged values")


def main(argv: Sequence[str] | None = None) -> Trainer:
    """Run the pre-training and return its trainer, for tests."""
    started = time.perf_counter()
    args = parse_args(argv)
    world = prepare(args)
    datamodule = make_datamodule(args, world)
    datamodule.setup("fit")
    hint = packing_hint(datamodule.dataset, args.data_dir) if world.rank == 0 else None
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
    run_dir = run_dir_of_rank(args, name, world.rank)
    progress = SampleProgress("pre-training")
    callbacks: list[Callback] = [EndTogether(), progress, FiniteLoss(), *online]
    if run_dir is not None:
        datamodule.log_dir = run_dir if world.rank == 0 else None
        labels = datamodule.mode.view_labels
        callbacks.append(
            ViewsPicture(run_dir / "views.png", datamodule.input_spec, labels, datamodule.dates)
        )
        callbacks.append(
            SaveCheckpoints(run_dir / "checkpoints", provenance(args), args.save_every_n_epochs)
        )
    trainer = make_trainer(args, world, callbacks, run_dir)
    trainer.fit(model, datamodule, ckpt_path=args.resume_from_checkpoint)
    if run_dir is not None and trainer.is_global_zero:
        spaces = datamodule.mode.space_names
        plot_training(run_dir / "curves.png", run_dir / "metrics.csv", spaces)
        finish(args, trainer, run_dir, started)
    return trainer


def prepare(args: Namespace) -> World:
    """Check and resolve the flags, share the cores, seed all generators."""
    check_flags(args)
    world = planned_world(args)
    resolve_precision(args, world.rank)
    # The threads that read a packed store only copy, a hundredth of the time.
    share_cores(args.gpus, world.per_node, 0 if is_packed(args.data_dir) else args.num_workers)
    seed_everything(args.seed, workers=True, verbose=False)
    return world


def check_flags(args: Namespace) -> None:
    """Refuse flags that cannot work, before anything is read or written."""
    check_base_flags(args)
    check_view_flags(args)
    check_positive(args, "emb_dim", "num_negatives", "softmax_temperature", "crop_size")
    check_positive(args, "save_every_n_epochs", "log_every_n_steps")
    check_positive(args, "online_max_epochs", "online_val_every_n_epoch")
    check_not_negative(args, "momentum", "weight_decay", "warmup_epochs", "bn_group_size")
    if 1 in (args.batch_size, args.bn_group_size):
        raise UserError("--batch_size and --bn_group_size cannot be 1: batch norm compares images")
    if not 0 <= args.encoder_momentum <= 1:
        raise UserError(f"--encoder_momentum must be in 0..1, not {args.encoder_momentum}")


def make_datamodule(args: Namespace, world: World) -> SecoDataModule:
    """Describe the data and the views; keys are shuffled where a batch has several parts."""
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


def make_online_evaluator(
    args: Namespace, world: World, spec: InputSpec
) -> list[SSLOnlineEvaluator]:
    """Read the labelled pictures in the first process, which probes alone; none without data."""
    if args.online_data_dir is None:
        return []
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
    logger: list[Logger] = []
    if run_dir is not None:
        logger = [
            CSVLogger(run_dir, name="", version=""),
            TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False),
        ]
    return Trainer(
        **trainer_kwargs(args) | launch_kwargs(world),
        logger=logger or False,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        log_every_n_steps=args.log_every_n_steps,
        use_distributed_sampler=False,  # ours draws from (seed, epoch)
        enable_progress_bar=False,  # ours counts samples
        enable_checkpointing=run_dir is not None,
        enable_model_summary=False,
        benchmark=True,
    )


def finish(args: Namespace, trainer: Trainer, run_dir: Path, started: float) -> None:
    """Write results.json and print the closing lines."""
    metrics = {name: float(value) for name, value in trainer.logged_metrics.items()}
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    last = run_dir / "checkpoints" / "last.ckpt"
    write_results(run_dir / "results.json", args, metrics, started, last)


if __name__ == "__main__":
    run(main)
