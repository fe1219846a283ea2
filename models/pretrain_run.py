"""What a pre-training does around its steps: draw pictures, write results."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from models.bad_steps import bad_steps
from models.moco2_module import MocoV2
from models.run_report.writing import report_run
from models.run_timing import Timing, Waiting
from utils.checkpoint import check_resumable, read_checkpoint
from utils.cli import print_next, trainer_kwargs
from utils.config_file import write_config
from utils.distributed import own_part, unshuffle
from utils.history import last_values
from utils.input_spec import InputSpec
from utils.launch import World
from utils.plots import Views, plot_training, plot_views, to_pictures
from utils.report import provenance, save_results, write_results
from utils.restored import check_state
from utils.resume import newest_resumable, resumed_run_dir, say
from utils.run_log import METRICS
from utils.training import run_trainer

_SHOWN_SAMPLES = 8


class PretrainPictures(Callback):
    """Draw the views of the first batch, and in the end the curves of the run.

    A resumed run keeps the picture of the views of its first start.

    Args:
        folder: Folder of ``metrics.csv``, ``views.png`` and ``curves.png``.
        spec: Normalisation of the views.
        labels: Title of each view, the query first.
        spaces: Name of each embedding space.
        dates: Returns, for each view, the days of the first samples of the current batch.

    ``shown`` is what was drawn; None before the first batch, and in all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        spec: InputSpec,
        labels: Sequence[str],
        spaces: Sequence[str],
        dates: Callable[[int], list[list[str]]],
    ) -> None:
        self.folder = folder
        self.spec = spec
        self.labels = labels
        self.spaces = spaces
        self.dates = dates
        self.is_drawn = (folder / "views.png").exists()
        self.shown: Views | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.is_drawn:
            return
        self.is_drawn = True
        img_q, img_k, order = batch
        if order is not None:  # the keys of this process's queries may be in another process
            img_k = [own_part(unshuffle(views, order)) for views in img_k]
        if trainer.is_global_zero:
            count = min(_SHOWN_SAMPLES, len(img_q))
            pictures = [to_pictures(views[:count], self.spec) for views in (img_q, *img_k)]
            self.shown = Views(pictures, self.labels, self.dates(count))
            plot_views(self.folder / "views.png", self.shown)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            if trainer.loggers:
                plot_training(self.folder / "curves.png", self.folder / METRICS, self.spaces)


def checkpoint_to_resume(args: Namespace, model: MocoV2, samples_per_step: int) -> Path | None:
    """Return the newest checkpoint of the run that the model can resume; None starts a new run.

    Args:
        args: Flags of the run.
        model: Model that resumes it.
        samples_per_step: Samples per step of all processes together.

    Raises:
        UserError: The checkpoint is of another run, or the run is finished.
    """
    resumed: Path | None = args.resume_from_checkpoint

    def check(path: Path) -> None:
        max_epochs = None if args.resume == "auto" else args.max_epochs  # the results may be left
        check_resumable(path, model.hparams, samples_per_step, max_epochs)
        check_state(path, model, model.make_optimizer())

    if resumed is not None and args.resume == "auto" and resumed_run_dir(args):
        found = newest_resumable(resumed.parent, check, first=resumed.name)
        if found is not None:
            say(f"resuming {found} after step {read_checkpoint(found)['global_step']}")
        return found
    if resumed is not None:
        check(resumed)
    return resumed


def pretrain_trainer(
    args: Namespace,
    world: World,
    callbacks: Sequence[Callback],
    run_dir: Path | None,
    max_steps: int = -1,
    *,
    training: Mapping[str, int] | None = None,
) -> Trainer:
    """Configure Lightning for a pre-training.

    Args:
        args: Flags of the run.
        world: Processes of the run.
        callbacks: Callbacks besides those of every training.
        run_dir: Folder of the run; None logs and saves nothing.
        max_steps: Steps after which it ends before its last epoch; -1 for all.
        training: Processes, samples and samples per step, for reports of the run.
    """
    settings: dict[str, Any] = {"log_every_n_steps": args.log_every_n_steps, "benchmark": True}
    settings["max_steps"] = max_steps
    if run_dir is not None:
        if world.rank == 0:
            write_config(run_dir, vars(args))
        settings["profiler"] = waiting = Waiting()
        timing = Timing(run_dir, waiting, args.resume_from_checkpoint, args.on_save_error)
        callbacks = [*callbacks, timing]
    return run_trainer(
        "pre-training",
        world,
        trainer_kwargs(args) | settings,
        run_dir,
        run_dir and run_dir / "checkpoints",
        provenance(args) | {"training": dict(training or {})},
        args.resume_from_checkpoint,
        every_n_epochs=args.save_every_n_epochs,
        every_minutes=args.save_every_minutes,
        on_save_error=args.on_save_error,
        callbacks=callbacks,
        loggers=args.logger,
    )


def write_pretrain_results(
    args: Namespace,
    trainer: Trainer,
    run_dir: Path,
    started: float,
    evaluation: Sequence[str],
    space_names: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Write results and report, and print their paths and what can be done with the encoder next.

    Args:
        args: Flags of the run.
        trainer: Trainer of the finished run.
        run_dir: Folder of the run.
        started: ``time.perf_counter()`` at the start of the run.
        evaluation: Command that evaluates encoders on labelled pictures that the user has; empty
            for a report that shows the data of the run.
        space_names: Name of each embedding space.
        facts: Further results: ``data``, which identifies the data, and ``training``.
    """
    metrics: dict[str, Any]
    if trainer.loggers:  # the trainer has no values of a run that was finished
        metrics = dict(last_values(run_dir / METRICS))
    else:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    metrics |= {"bad_steps": bad_steps(trainer.lightning_module), **facts}
    last = run_dir / "checkpoints" / "last.ckpt"
    save_results(run_dir, args, metrics, started, finished=True)
    if not args.no_report:
        report_run(run_dir, {args.data_mode: space_names})
    write_results(run_dir / "results.json", args, metrics, started, last)
    if evaluation:
        print_next(*evaluation, "--backbone_type", "pretrain", "--ckpt_path", last)
    else:
        print_next("main_report.py", run_dir, "--data_dir", args.data_dir)
