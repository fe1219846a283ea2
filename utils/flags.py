"""Argument parser with one-line errors, and checks of the values of flags.

Nothing heavy is imported, so that ``--help`` and invalid flags are answered immediately.
"""

import argparse
import difflib
import math
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.errors import UserError, quoted

LARGEST_COUNT = 2**32  # exclusive limit of counts; also that of NumPy for a seed
# Names of other command lines (timm, torchvision, MoCo, Lightning) for our flags.
_SYNONYMS = {
    "arch": "base_encoder",
    "backbone": "backbone_type",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "cos": "lr_schedule",
    "data": "data_dir",
    "data_path": "data_dir",
    "dataset_dir": "data_dir",
    "device": "gpus",
    "devices": "gpus",
    "epochs": "max_epochs",
    "img_size": "crop_size",
    "input_size": "crop_size",
    "lr": "learning_rate",
    "model": "base_encoder",
    "moco_dim": "emb_dim",
    "moco_k": "num_negatives",
    "moco_m": "encoder_momentum",
    "moco_t": "softmax_temperature",
    "nodes": "num_nodes",
    "nproc_per_node": "num_processes",
    "num_epochs": "max_epochs",
    "num_gpus": "gpus",
    "out_dir": "save_path",
    "output": "save_path",
    "output_dir": "log_dir",
    "pretrained": "ckpt_path",
    "resume": "resume_from_checkpoint",
    "root": "data_dir",
    "temperature": "softmax_temperature",
    "wd": "weight_decay",
    "workers": "num_workers",
    "world_size": "num_nodes",
}
# Start of the text of a service account's key, as JSON or as PEM, which must not be printed.
_SECRET = re.compile(r"\{|-----BEGIN")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Show informative defaults, and keep the line breaks of the example commands."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        says_nothing = action.default in (None, "", argparse.SUPPRESS)
        if says_nothing or isinstance(action.default, bool) or "default" in text:
            return action.help
        default = action.default
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text.removesuffix('.')} (default: {shown.replace('%', '%%')})."


class Parser(argparse.ArgumentParser):
    """Parser of every script: flags are not abbreviated, and an error is a ``UserError``.

    Args:
        description: Text above the flags, with example commands.
        prog: Name of the program; that of the script if None.
    """

    def __init__(self, description: str | None = None, prog: str | None = None) -> None:
        super().__init__(
            prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False
        )

    def group(self, title: str) -> "argparse._ArgumentGroup":
        """Return the group of flags with this title; create it if needed."""
        groups = (group for group in self._action_groups if group.title == title)
        return next(groups, None) or self.add_argument_group(title)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; a misspelt flag is reported before a missing one."""
        self._check_names(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def parse_given(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """Return only the flags that are on the command line, without any defaults."""
        unset = object()
        parsed = self.parse_args(argv, Namespace(**dict.fromkeys(self._names(), unset)))
        return {name: value for name, value in vars(parsed).items() if value is not unset}

    def with_defaults(self, given: dict[str, Any]) -> Namespace:
        """Return all flags: the given ones, and the defaults of the others."""
        return Namespace(**{name: self.get_default(name) for name in self._names()} | given)

    def error(self, message: str) -> NoReturn:
        """Raise the message as a ``UserError``."""
        shown = quoted(_SECRET.split(message)[0], 500)
        raise UserError(f"{shown} See --help" if shown.endswith("?") else f"{shown}; see --help")

    def _names(self) -> list[str]:
        return [action.dest for action in self._actions if action.dest != "help"]

    def _check_names(self, argv: Sequence[str]) -> None:
        """Refuse an unknown flag and suggest a similar one; its value is not printed."""
        for token in argv:
            if token == "--":
                return
            name = token.partition("=")[0]
            # The rule of argparse: a negative number is a value.
            is_flag = re.match(r"-[^\d.]", token) is not None and " " not in token
            if is_flag and name not in self._option_string_actions:
                self.error(f"{quoted(name, 40)} is not a flag{self._suggestion(name)}")

    def _suggestion(self, name: str) -> str:
        """Return the most similar flag as a question, or an empty string."""
        known = [option[2:] for option in self._option_string_actions if option[2:]]
        wanted = name.lstrip("-").replace("-", "_").lower()
        guesses = [guess for guess in (wanted, _SYNONYMS.get(wanted)) if guess in known]
        guesses += difflib.get_close_matches(wanted, known, 1)
        return f": did you mean --{guesses[0]}?" if guesses else ""


def check_positive(args: Namespace, *names: str) -> None:
    """Refuse values that are not above 0 and below the limit; None (not given) is accepted.

    Args:
        args: Parsed flags.
        names: Flags to check, without dashes.

    Raises:
        UserError: A value is out of range.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < _limit(value):
            raise UserError(f"--{name} must be above 0 and {_below(value)}, not {value}")


def check_not_negative(args: Namespace, *names: str) -> None:
    """Refuse values that are negative or too large; None (not given) is accepted.

    Args:
        args: Parsed flags.
        names: Flags to check, without dashes.

    Raises:
        UserError: A value is out of range.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 <= value < _limit(value):
            raise UserError(f"--{name} must be 0 or more and {_below(value)}, not {value}")


def check_fraction(flag: str, frac: float) -> None:
    """Refuse a fraction that is not above 0 and at most 1."""
    if not 0 < frac <= 1:
        raise UserError(f"--{flag} is a share in 0..1, above 0, not {frac:g}")


def _limit(value: float) -> float:
    """Return an exclusive limit: far beyond any use, but safe for the libraries."""
    return LARGEST_COUNT if isinstance(value, int) else math.inf


def _below(value: float) -> str:
    return f"below {LARGEST_COUNT:,}" if isinstance(value, int) else "finite"
