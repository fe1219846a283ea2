r"""Pre-train a ResNet on unlabelled multi-season patches (Seasonal Contrast), or on any images.

Three embedding spaces from a folder of SeCo patches:
  python main_pretrain.py --data_dir datasets/seco_100k --data_mode seco \
    --base_encoder resnet18 --max_epochs 1000 --schedule 600 800

MoCo-v2 on a folder or zip of small pictures:
  python main_pretrain.py --data_dir EuroSAT_RGB.zip --image_list train.txt \
    --data_mode moco --preset small_images
"""

import math
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from datasets.bands import RGB_BANDS
from datasets.seco_datamodule import DATA_MODES, SecoDataModule
from models.moco2_module import MocoV2
from models.schedule import SCHEDULES
from utils.augment import AugmentConfig
from utils.callbacks import FiniteLoss, SampleProgress, SaveCheckpoints, ViewsPicture
from utils.checkpoint import WholeCheckpointIO, read_checkpoint
from utils.cli import (
    base_parser,
    batch_size_per_process,
    check_base_flags,
    check_not_negative,
    check_positive,
    run,
    share_cores,
    trainer_kwargs,
)
from utils.errors import UserError
from utils.plots import plot_training
from utils.report import new_run_dir, provenance, write_results

# Other defaults for other data; a flag on the command line still wins. How the numbers were found:
# docs/training.md.
PRESETS: dict[str, dict[str, Any]] = {
    "seco": {},
    "small_images": {
        "data_mode": "moco",
        "crop_size": 48,
        "color_jitter": [0.4, 0.4, 0.4, 0.0],
        "grayscale_prob": 0.1,
        "blur_prob": 0.0,
        "rotate": True,
        "batch_size": 128,
        "num_negatives": 4096,
        "encoder_momentum": 0.99,
        "softmax_temperature": 0.2,
        "learning_rate": 0.06,
        "lr_schedule": "cosine",
        "warmup_epochs": 1.0,
        "max_epochs": 30,
    },
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = base_parser(__doc__, max_epochs=200, batch_size=256, learning_rate=0.03)
    _add_data_args(parser)
    _add_model_args(parser)
    parser.add_argument("--preset", choices=PRESETS, default="seco", help="set of defaults")
    preset = parser.parse_known_args(argv)[0].preset
    parser.set_defaults(**PRESETS[preset])
    return parser.parse_args(argv)


def _add_data_args(parser: ArgumentParser) -> None:
    """Add the flags of the patches and their views."""
    views = AugmentConfig()
    add = parser.add_argument
    add("--data_mode", choices=DATA_MODES, default="seco", help="which views are contrasted")
    add("--bands", nargs="+", default=list(RGB_BANDS), help="bands of SeCo patches, in order")
    add("--cache", choices=["mmap", "ram", "gpu"], default="mmap", help="memory of a packed store")
    add("--image_list", type=Path, help="file with the images to use, for --data_mode moco")
    add("--on_bad_patch", choices=["raise", "skip"], default="raise", help="unreadable patches")
    add("--crop_size", type=int, default=views.crop_size, help="pixels of a view")
    add("--crop_scale", type=float, nargs=2, default=views.crop_scale, help="share of the patch")
    add(
        "--color_jitter",
        type=float,
        nargs=4,
        default=views.color_jitter,
        help="strength of brightness, contrast, saturation and hue",
    )
    add("--jitter_prob", type=float, default=views.jitter_prob, help="share of jittered views")
    add("--grayscale_prob", type=float, default=views.grayscale_prob, help="share of grey views")
    add("--blur_prob", type=float, default=views.blur_prob, help="share of blurred views")
    add(
        "--rotate",
        action=BooleanOptionalAction,
        default=views.rotate,
        help="flip and transpose, for imagery without an up",
    )


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
    add("--save_every_n_epochs", type=int, default=50, help="epochs between kept checkpoints")
    add("--log_every_n_steps", type=int, default=50, help="steps between logged values")


def main(argv: Sequence[str] | None = None) -> Trainer:
    """Run the pre-training and return its trainer, for tests."""
    started = time.perf_counter()
    args = parse_args(argv)
    check_flags(args)
    share_cores(args)
    seed_everything(args.seed, workers=True, verbose=False)
    datamodule = make_datamodule(args)
    datamodule.setup("fit")
    # Logging waits for the device, so it is rare; a short run logs every epoch at least.
    steps_per_epoch = datamodule.steps_per_epoch(world_size=max(1, args.gpus))
    args.log_every_n_steps = min(args.log_every_n_steps, steps_per_epoch)
    model = make_model(args, datamodule)
    if args.resume_from_checkpoint is not None:
        check_resumable(args.resume_from_checkpoint, model, args.max_epochs)

    samples_per_step = datamodule.batch_size * max(1, args.gpus)
    callbacks: list[Callback] = [SampleProgress(samples_per_step), FiniteLoss()]
    run_dir = None if args.debug else new_run_dir(args.log_dir, run_name(args))
    if run_dir is not None:
        datamodule.log_dir = run_dir
        callbacks.append(ViewsPicture(run_dir / "views.png", datamodule.input_spec))
        callbacks.append(
            SaveCheckpoints(run_dir / "checkpoints", args.save_every_n_epochs, provenance(args))
        )
    trainer = make_trainer(args, callbacks, run_dir)
    trainer.fit(model, datamodule, ckpt_path=args.resume_from_checkpoint)
    if run_dir is not None and trainer.is_global_zero:
        finish(args, trainer, run_dir, started)
    return trainer


def check_flags(args: Namespace) -> None:
    """Refuse flags that cannot work, before anything is read or written."""
    check_base_flags(args)
    check_positive(args, "emb_dim", "num_negatives", "softmax_temperature", "crop_size")
    check_positive(args, "save_every_n_epochs", "log_every_n_steps")
    check_not_negative(args, "momentum", "weight_decay", "warmup_epochs", "bn_group_size")
    if 1 in (args.batch_size, args.bn_group_size):
        raise UserError("--batch_size and --bn_group_size cannot be 1: batch norm compares images")
    low, high = args.crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"--crop_scale needs 0 < MIN <= MAX <= 1, not {low} {high}")
    if not all(0 <= s < math.inf for s in args.color_jitter) or args.color_jitter[3] > 0.5:
        raise UserError("--color_jitter needs four strengths from 0 on, the last (hue) up to 0.5")
    for name in ("jitter_prob", "grayscale_prob", "blur_prob"):
        if not 0 <= getattr(args, name) <= 1:
            raise UserError(f"--{name} is a probability, not {getattr(args, name)}")
    if not 0 <= args.encoder_momentum <= 1:
        raise UserError(f"--encoder_momentum must be in 0..1, not {args.encoder_momentum}")


def make_datamodule(args: Namespace) -> SecoDataModule:
    """Describe the data and the views."""
    augment = AugmentConfig(
        crop_size=args.crop_size,
        crop_scale=tuple(args.crop_scale),
        color_jitter=tuple(args.color_jitter),
        jitter_prob=args.jitter_prob,
        grayscale_prob=args.grayscale_prob,
        blur_prob=args.blur_prob,
        rotate=args.rotate,
        round_to_uint8=args.protocol == "paper",
    )
    return SecoDataModule(
        args.data_dir,
        args.data_mode,
        bands=args.bands,
        batch_size=batch_size_per_process(args),
        num_workers=args.num_workers,
        seed=args.seed,
        augment=augment,
        replace_dates=args.protocol == "paper",
        on_bad_patch=args.on_bad_patch,
        image_list=args.image_list,
        log_dir=None,
        cache=args.cache,
    )


def make_model(args: Namespace, datamodule: SecoDataModule) -> MocoV2:
    """Build the model for the data; a queue or a group that does not fit a batch is an error."""
    step = datamodule.batch_size * max(1, args.gpus)
    if args.num_negatives < step:
        raise UserError(
            f"a queue of --num_negatives {args.num_negatives} is smaller than the {step} keys of "
            "a step: raise it, or lower --batch_size"
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
    return model.to(memory_format=torch.channels_last)


def make_trainer(args: Namespace, callbacks: list[Callback], run_dir: Path | None) -> Trainer:
    """Configure Lightning; without a run folder nothing is logged or saved."""
    logger: list[Logger] = []
    if run_dir is not None:
        logger = [
            CSVLogger(run_dir, name="", version=""),
            TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False),
        ]
    return Trainer(
        **trainer_kwargs(args),
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


def check_resumable(path: Path, model: MocoV2, max_epochs: int) -> None:
    """Refuse to go on from a finished run, with other inputs, or with flags without effect."""
    checkpoint = read_checkpoint(path)
    saved = checkpoint.get("hyper_parameters", {})
    shape = ("base_encoder", "emb_dim", "num_negatives", "emb_spaces", "in_channels", "input_spec")
    optimizer = ("learning_rate", "momentum", "weight_decay")  # restored from the checkpoint
    for name in shape + optimizer:
        if saved.get(name) != model.hparams[name]:
            raise UserError(
                f"{path} was trained with {name} {saved.get(name)}, not {model.hparams[name]}: "
                "resume with the flags of its run"
            )
    done = checkpoint["epoch"] + 1  # checkpoints are written after whole epochs
    if done >= max_epochs:
        raise UserError(
            f"{path} has its {done} epochs already: raise --max_epochs above {done} to go on"
        )


def run_name(args: Namespace) -> str:
    """Name the folder of the run by what is learned."""
    return f"pretrain-{args.data_mode}-{args.base_encoder}"


def finish(args: Namespace, trainer: Trainer, run_dir: Path, started: float) -> None:
    """Draw the curves, write results.json and print the closing lines."""
    plot_training(run_dir / "curves.png", run_dir / "metrics.csv")
    metrics = {name: float(value) for name, value in trainer.logged_metrics.items()}
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    last = run_dir / "checkpoints" / "last.ckpt"
    write_results(run_dir / "results.json", args, metrics, started, last)


if __name__ == "__main__":
    run(main)
