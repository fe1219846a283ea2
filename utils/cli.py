"""Flags that the scripts share, their translation to Lightning 2, and running a script."""

import multiprocessing
import os
import shlex
import signal
import sys
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from utils.augment_config import AugmentConfig
from utils.config_file import CONFIG_HELP
from utils.cores import available_cores, keep_freed_memory
from utils.errors import LOST_PROCESS, UserError, has_lost_process, printable, sentence_of
from utils.files import check_can_write, check_exists
from utils.flags import Parser, check_not_negative, check_positive
from utils.launchers import is_first_to_fail
from utils.output import lenient_output
from utils.precision import PRECISIONS
from utils.signals import SIGNALS, Leave, end_in_time

GROUPS = ("data", "views", "model", "training", "devices", "evaluation", "output")
PROTOCOL_HELP = "paper restores the choices of the original, see docs/differences.md."
GPUS_HELP = "GPUs on each machine, 0 for the CPU (default: 1 if there is a GPU, else 0)."
PRECISION_HELP = "Floating-point type of the arithmetic; auto takes bf16 where the device has it."
TRACKERS = ("wandb", "mlflow")  # names of their packages, too
DEFAULT_QUEUE = 16_384  # keys, of main_pretrain.py
LOGGERS = ("csv", "tensorboard", *TRACKERS, "none")


def base_parser(
    description: str | None, *, max_epochs: int, batch_size: int, learning_rate: float
) -> Parser:
    """Create a parser with the flags of every entry script.

    Args:
        description: Docstring of the script.
        max_epochs: Default number of passes over the training set.
        batch_size: Default number of samples per step and process.
        learning_rate: Default learning rate at the start.
    """
    parser = Parser(description)
    parser.usage = "%(prog)s --data_dir DATA_DIR [flags]"
    for title in GROUPS:  # --help shows the groups that have flags, in this order
        parser.group(title)
    add = parser.group("data").add_argument
    add("--data_dir", type=Path, required=True, help="Folder or file of the data set, see README.")
    workers = min(8, available_cores())
    add("--num_workers", type=int, default=workers, help="Processes that read samples.")
    add = parser.group("training").add_argument
    add("--batch_size", type=int, default=batch_size, help="Samples per step and process.")
    add("--max_epochs", type=int, default=max_epochs, help="Passes over the training set.")
    add("--learning_rate", type=float, default=learning_rate, help="Learning rate at the start.")
    add("--seed", type=int, default=42, help="Seed of all random numbers.")
    add("--protocol", choices=["corrected", "paper"], default="corrected", help=PROTOCOL_HELP)
    add("--resume_from_checkpoint", type=Path, help="Checkpoint of the interrupted run to resume.")
    newest = "Resume the newest run in --log_dir, or start one."
    add("--resume", choices=["auto"], help=newest)
    minutes = "Minutes between two checkpoints; one is also written at a signal and after an epoch."
    add("--save_every_minutes", type=float, default=30.0, help=minutes)
    add = parser.group("devices").add_argument
    add("--gpus", type=int, help=GPUS_HELP)
    add("--accelerator", choices=["dp", "ddp"], help="Spelling of 2021; both run as ddp.")
    add("--precision", choices=["auto", *PRECISIONS], default="auto", help=PRECISION_HELP)
    add = parser.group("output").add_argument
    add("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    places = "Where values are logged, always in metrics.csv unless none."
    loggers = ["csv", "tensorboard"]
    add("--logger", nargs="+", choices=LOGGERS, default=loggers, metavar="NAME", help=places)
    add("--log_dir", type=Path, default=Path("logs"), help="Folder in which a run gets its own.")
    add("--debug", action="store_true", help="Write neither logs nor checkpoints.")
    add("--no_report", action="store_true", help="Write no report.html at the end.")
    return parser


def check_base_flags(args: Namespace) -> None:
    """Refuse invalid values of the flags of ``base_parser``, before heavy imports."""
    check_positive(args, "batch_size", "max_epochs", "learning_rate", "save_every_minutes")
    check_not_negative(args, "num_workers", "gpus", "seed")
    check_exists("data_dir", args.data_dir)
    if not args.debug:
        check_can_write("log_dir", args.log_dir, is_folder=True)
        _check_loggers(args.logger)


def _check_loggers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed."""
    if "none" in names and len(names) > 1:
        raise UserError("--logger none excludes the other loggers: name it alone, or leave it out")
    for name in TRACKERS:
        # Without an origin it is a folder of that name, as wandb leaves one.
        if name in names and getattr(find_spec(name), "origin", None) is None:
            raise UserError(f"--logger {name} is not installed: use pip install {name}")


def trainer_kwargs(args: Namespace) -> dict[str, Any]:
    """Translate the flags of Lightning 1.1 into arguments of the ``Trainer`` of Lightning 2."""
    return {
        "accelerator": "gpu" if args.gpus else "cpu",
        "devices": 1,
        "precision": "16-mixed" if args.precision == "16" else args.precision,
        "max_epochs": args.max_epochs,
    }


def share_cores(gpus: int, num_processes: int, num_loaders: int) -> None:
    """Prepare a process that computes on the CPU; each of its loader processes has a core.

    Threads wait for each other by spinning: one without a core slows a step down many times.

    Args:
        gpus: GPUs per machine; nothing happens unless 0.
        num_processes: Training processes on this machine.
        num_loaders: Loader processes of each training process.
    """
    import torch

    if gpus == 0:
        keep_freed_memory()
        free = available_cores(num_processes) - num_loaders
        threads = max(1, min(free, torch.get_num_threads()))
        torch.set_num_threads(threads)
        if num_processes > 1:  # Lightning would count the cores, without the loaders
            os.environ["OMP_NUM_THREADS"] = str(threads)


def sizes_for(num_samples: int) -> list[object]:
    """Return flags of main_pretrain.py for a small data set, none for one beyond the default queue.

    The queue is at most half an epoch, see ``shorter_queue``, and a batch no longer than the queue.
    """
    if num_samples > DEFAULT_QUEUE:
        return []
    queue = max(2, min(256, num_samples // 2))
    return ["--batch_size", min(32, queue), "--num_negatives", queue]


def shorter_queue(num_samples: int, samples_per_step: int, num_processes: int = 1) -> str:
    """Return how to give main_pretrain.py a queue of half an epoch.

    In random orders an eighth of the queries then meets the key of its own sample from the last
    epoch. A queue cannot be shorter than the samples of a step, two or more of each process.

    Args:
        num_samples: Samples of an epoch.
        samples_per_step: Samples per step of all processes.
        num_processes: Processes that share a step.
    """
    queue = max(2 * num_processes, num_samples // 2)
    flags = f"--num_negatives {queue}"
    if queue < samples_per_step:
        flags += f" and at most {queue - queue % num_processes} samples per step (--batch_size)"
    return flags


def crop_for(side: int) -> list[object]:
    """Return the flag of main_pretrain.py for patches smaller than its views, which would blur.

    Args:
        side: The shorter side of the patches in pixels.
    """
    return ["--crop_size", side] if side < AugmentConfig().crop_size else []


def print_next(*command: object) -> None:
    """Print the command of the usual next step, quoted for the shell."""
    print(printable(f"next: python {shlex.join(map(str, command))}"))


def run(main: Callable[[], object], *, resumes: bool = False) -> None:
    """Run the ``main`` of a script.

    Errors of the user and of the machine are printed as one sentence, with exit code 2. A standard
    output that cannot be written is reported in the end. SIGTERM, SIGUSR1 and Ctrl-C raise an
    exception, so that partial files are removed; their exit codes are 143, 138 and 130, but 75
    (``EX_TEMPFAIL``) if the same command resumes its work.

    Args:
        main: Function to call.
        resumes: Whether the same command resumes, as it does with ``--resume auto``.
    """
    # Lightning's own use of torch, which a user cannot change.
    warnings.filterwarnings("ignore", module="pytorch_lightning.utilities._pytree")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated")
    resumes = resumes or "--resume auto" in " ".join(sys.argv).replace("=", " ")
    leave = Leave(os.EX_TEMPFAIL if resumes else None)
    for number in SIGNALS if resumes else (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)
    if resumes:
        end_in_time()
    sys.unraisablehook = partial(_interrupt_again, leave)
    lost: list[OSError] = []
    warnings.formatwarning = _format_warning
    try:
        with lenient_output() as lost:
            result = main()
    except BrokenPipeError:
        _leave("stopped: a helper process has ended", 141)
    except Exception as error:
        if resumes and leave.came is not None:  # what it ended may fail in another way
            _stop(leave)
        leave_for(error)
        raise
    except (KeyboardInterrupt, SystemExit) as leaving:
        if getattr(leaving, "code", None) == os.EX_TEMPFAIL:
            _stop(leave)
        # Lightning answers Ctrl-C with SystemExit.
        if any(isinstance(e, KeyboardInterrupt) for e in (leaving, leaving.__context__)):
            _leave("interrupted", 130)
        if lost and not getattr(leaving, "code", 1):  # such as --help
            _leave_without_output(lost[0], is_done=False)
        raise
    else:
        if lost:
            _leave_without_output(lost[0], is_done=result is not None)


def leave_for(error: Exception) -> None:
    """Print the sentence of an error, and exit; return if it has none, as that of a bug."""
    if sentence := sentence_of(error):
        code = LOST_PROCESS if has_lost_process(error) else 2
        _leave(f"error: {printable(sentence)}", code)


def _stop(leave: Leave) -> NoReturn:
    """Exit although the work can be resumed, also if a loader waits for data that never come."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report them as lost
    for child in multiprocessing.active_children():
        child.kill()
    if leave.came is None:  # what ended has given the reason
        sys.exit(os.EX_TEMPFAIL)
    _leave("stopped by a signal: the same command resumes", os.EX_TEMPFAIL)


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Format a warning as one line, because it may quote names and texts from files."""
    return f"warning: {printable(str(message))}\n"


def _interrupt_again(leave: Leave, ignored: "sys.UnraisableHookArgs") -> None:
    """Repeat a signal that arrived while Python started a process, which discards it."""
    if not isinstance(ignored.exc_value, SystemExit | KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    number, leave.came = leave.came or signal.SIGINT, None
    timer = threading.Timer(0.1, os.kill, (os.getpid(), number))  # when the process is started
    timer.daemon = True
    timer.start()


def _leave_without_output(error: OSError, *, is_done: bool) -> NoReturn:
    """Exit with code 0 if the results are in files, else as a program whose output is its result.

    Args:
        error: Why the output could not be written.
        is_done: Whether the script has returned results, which it has written into files.
    """
    if isinstance(error, BrokenPipeError):  # as in ``--list | head -1``
        text, code = "stopped: the reader of the output has ended", 141
    else:
        reason = f"the output could not be written: {sentence_of(error) or error}"
        text, code = f"error: {reason}", os.EX_IOERR
    if is_done:
        text, code = f"the results are written, but {text.partition(': ')[2]}", 0
    _leave(text, code)


def _leave(text: str, code: int) -> NoReturn:
    """Print the text, in one of the processes of a run, and exit."""
    if is_first_to_fail():
        print(text, file=sys.stderr)
    sys.exit(code)
