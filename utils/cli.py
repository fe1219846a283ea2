"""Command-line flags that the entry scripts share, and their translation to Lightning 2."""

import argparse
import errno
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from utils.distributed import launched_rank
from utils.errors import UserError, sentence_of
from utils.files import check_can_write, check_name
from utils.precision import PRECISIONS

# A full disk or a path that cannot be used is not a bug; the error's text names the path.
_PATH_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP),
    errno.ENXIO,  # a socket
}
# Time for the launcher to end a process that fails only because another one did.
GRACE_S = 5.0
LARGEST_COUNT = 2**32  # of samples, epochs, pixels; and what NumPy takes for a seed
PRECISION_HELP = "of the arithmetic; auto: bf16 where the device computes in it, else 32-bit floats"
PROTOCOL_HELP = "paper restores the choices of the original, see docs/differences.md"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults that say something, and keep the line breaks of the example commands."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.default in (None, "") or isinstance(action.default, bool) or "default" in text:
            return action.help
        return super()._get_help_string(action)


def base_parser(
    description: str | None,
    *,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
) -> ArgumentParser:
    """Create a parser with the flags of every entry script; only defaults differ."""
    parser = ArgumentParser(
        description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="data set, see README.md")
    add("--batch_size", type=int, default=batch_size, help="samples per step and process")
    add("--num_workers", type=int, default=min(8, os.cpu_count() or 1), help="loader processes")
    add("--learning_rate", type=float, default=learning_rate, help="initial learning rate")
    add("--max_epochs", type=int, default=max_epochs, help="passes over the training set")
    add("--gpus", type=int, default=min(1, torch.cuda.device_count()), help="0 runs on the CPU")
    add("--accelerator", choices=["dp", "ddp"], help="spelling of 2021, both run as ddp")
    add("--precision", choices=["auto", *PRECISIONS], default="auto", help=PRECISION_HELP)
    add("--protocol", choices=["corrected", "paper"], default="corrected", help=PROTOCOL_HELP)
    add("--resume_from_checkpoint", type=Path, help="checkpoint of the run to continue")
    add("--log_dir", type=Path, default=Path("logs"), help="where runs write their folder")
    add("--seed", type=int, default=42, help="seed of all generators")
    add("--debug", action="store_true", help="write neither logs nor checkpoints")
    return parser


def check_base_flags(args: Namespace) -> None:
    """Refuse values of ``base_parser``'s flags that cannot work, as GPUs that are not there."""
    check_positive(args, "batch_size", "max_epochs", "learning_rate")
    check_not_negative(args, "num_workers", "gpus", "seed")
    check_name("data_dir", args.data_dir)
    if not args.debug:
        check_can_write("log_dir", args.log_dir, is_folder=True)
    if args.gpus > torch.cuda.device_count():
        raise UserError(
            f"--gpus {args.gpus} was asked for, {torch.cuda.device_count()} found: "
            "use --gpus 0 for the CPU"
        )


def check_positive(args: Namespace, *names: str) -> None:
    """Refuse flags that are not above 0, as a number can be; None means that one was not given."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < _limit(value):
            raise UserError(f"--{name} must be above 0 and {_below(value)}, not {value}")


def check_not_negative(args: Namespace, *names: str) -> None:
    """Refuse flags that are negative or larger than a number can be."""
    for name in names:
        value = getattr(args, name)
        if not 0 <= value < _limit(value):
            raise UserError(f"--{name} must be 0 or more and {_below(value)}, not {value}")


def _limit(value: float) -> float:
    """Return what is too large: far beyond any use, but less than libraries choke on."""
    return LARGEST_COUNT if isinstance(value, int) else math.inf


def _below(value: float) -> str:
    return f"below {LARGEST_COUNT:,}" if isinstance(value, int) else "finite"


def trainer_kwargs(args: Namespace) -> dict[str, Any]:
    """Translate flags of Lightning 1.1 into arguments of the Lightning 2 ``Trainer``."""
    return {
        "accelerator": "gpu" if args.gpus else "cpu",
        "devices": 1,
        "precision": "16-mixed" if args.precision == "16" else args.precision,
        "max_epochs": args.max_epochs,
    }


def share_cores(gpus: int, num_processes: int, num_loaders: int) -> None:
    """Leave a core to each loader of ``num_processes`` that train on this machine's CPU.

    Threads wait for each other by spinning: one that lacks a core slows a step many times.
    """
    if gpus == 0:
        free = (os.cpu_count() or 1) // num_processes - num_loaders
        threads = max(1, min(free, torch.get_num_threads()))
        torch.set_num_threads(threads)
        if num_processes > 1:  # else Lightning counts cores, without the loaders
            os.environ["OMP_NUM_THREADS"] = str(threads)


def run(main: Callable[[], object]) -> None:
    """Run the ``main`` of a script: an error of user or machine is one sentence and exit code 2."""
    # Lightning's hints about devices and products, and its own use of what torch renamed.
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.utilities._pytree")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated")
    signal.signal(signal.SIGTERM, exit_on_signal)
    sys.unraisablehook = _interrupt_again
    try:
        main()
    except UserError as error:
        _leave(f"error: {sentence_of(error)}", 2)
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        _leave(f"error: {error}: free it or choose another path", 2)
    except (MemoryError, torch.OutOfMemoryError):
        _leave("error: out of memory: lower the sizes, such as --batch_size", 2)
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except SystemExit as leaving:  # Lightning's answer to Ctrl-C
        if isinstance(leaving.__context__, KeyboardInterrupt):
            _leave("interrupted", 130)
        raise


def exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Leave as after an error, so that what is half written is cleaned up."""
    sys.exit(128 + number)


def _interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Repeat an interruption that came while Python started a process, which ignores it."""
    if isinstance(ignored.exc_value, SystemExit | KeyboardInterrupt):
        is_exit = isinstance(ignored.exc_value, SystemExit)
        again = (os.getpid(), signal.SIGTERM if is_exit else signal.SIGINT)
        timer = threading.Timer(0.1, os.kill, again)  # when the process is started
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(ignored)


def _leave(text: str, code: int) -> NoReturn:
    """Report and exit; of several processes that fail alike, the first one reports.

    The others wait, for the end of the first one ends them.
    """
    if launched_rank() > 0:
        time.sleep(GRACE_S)
    print(text, file=sys.stderr)
    sys.exit(code)
