"""Argument parser with one-line errors, and checks of values; imports nothing heavy."""

import argparse
import difflib
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.errors import UserError, quoted

# Exclusive limit of counts: far beyond any use, but safe for the libraries; NumPy's for a seed.
LARGEST_COUNT = 2**32
_FINITE = 3.4e38, "finite in 32 bits"  # limit of other numbers, and its name
LARGEST_SIDE = 10_981  # exclusive limit of pixels; a tile of Sentinel-2 has 10,980 at 10 m
# Names of other command lines (timm, torchvision, MoCo, Lightning) for our flags.
_SYNONYMS = {
    "backbone_type": "backbone",
    "base_encoder": "arch model",
    "ckpt_path": "checkpoint ckpt pretrained",
    "crop_size": "img_size input_size",
    "data_dir": "data data_path dataset_dir root",
    "emb_dim": "moco_dim",
    "encoder_momentum": "moco_m",
    "gpus": "device devices num_gpus",
    "learning_rate": "lr",
    "log_dir": "output_dir",
    "lr_schedule": "cos",
    "max_epochs": "epochs num_epochs",
    "num_negatives": "moco_k",
    "num_nodes": "nodes world_size",
    "num_processes": "nproc_per_node",
    "num_workers": "workers",
    "resume_from_checkpoint": "resume",
    "save_path": "out_dir output",
    "softmax_temperature": "moco_t temperature",
    "weight_decay": "wd",
}
# Start of the text of a service account's key, as JSON or as PEM, which must not be printed.
_SECRET = re.compile(r"\{|-----BEGIN")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Show informative defaults, and keep the line breaks of the example commands."""

    # Formatters of argparse differ by private methods alone; there is no public way.
    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        says_nothing = default in (None, "", argparse.SUPPRESS) or isinstance(default, bool)
        if says_nothing or "default" in text:
            return action.help
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

        # argparse takes "-33.9,151.2", a southern place, and "-1e-4" for flags.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    # argparse has no public type or list of groups, and no public list of flags or options.
    def group(self, title: str) -> "argparse._ArgumentGroup":
        """Return the group of flags with this title; create it if needed."""
        groups = (each for each in self._action_groups if each.title == title)  # see above
        return next(groups, None) or self.add_argument_group(title)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; a misspelt flag is reported before a missing one, without its value."""
        for token in sys.argv[1:] if args is None else args:
            if token == "--":
                break
            name = token.partition("=")[0]
            # The rule of argparse: a negative number is a value.
            is_flag = re.match(r"-[^\d.]", token) is not None and " " not in token
            if is_flag and name not in self._option_string_actions:
                self.error(f"{quoted(name, 40)} is not a flag{self.suggestion(name)}")
        return super().parse_known_args(args, namespace)

    def parse_given(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """Return only the flags that are on the command line, without any defaults."""
        unset = object()
        parsed = self.parse_args(argv, Namespace(**dict.fromkeys(self.flags(), unset)))
        return {name: value for name, value in vars(parsed).items() if value is not unset}

    def with_defaults(self, given: dict[str, Any]) -> Namespace:
        """Return all flags: the given ones, and the defaults of the others."""
        return Namespace(**{name: self.get_default(name) for name in self.flags()} | given)

    def error(self, message: str) -> NoReturn:
        """Raise the message as a ``UserError``."""
        shown = quoted(_SECRET.split(message)[0], 500)
        raise UserError(f"{shown} See --help" if shown.endswith("?") else f"{shown}; see --help")

    def flags(self) -> dict[str, argparse.Action]:
        """Return the flags by name, without dashes."""
        return {each.dest: each for each in self._actions if each.dest != "help"}  # see ``group``

    def suggestion(self, name: str) -> str:
        """Return the flag that is most similar to a name as a question, or an empty string."""
        known = [each[2:] for each in self._option_string_actions if each[2:]]  # see ``group``
        wanted = name.lstrip("-").replace("-", "_").lower()
        guesses = [wanted, *(flag for flag, names in _SYNONYMS.items() if wanted in names.split())]
        guesses += difflib.get_close_matches(wanted, known, 1)
        return next((f": did you mean --{guess}?" for guess in guesses if guess in known), "")


def check_positive(args: Namespace, *names: str, below: int = LARGEST_COUNT) -> None:
    """Refuse values of flags that are not above 0 or too large.

    Args:
        args: Flags; each value is a number, a list of numbers, or None or absent if not given.
        names: Names of the flags, without dashes.
        below: Exclusive limit of whole numbers; others need to be finite.
    """
    _check_range(args, names, "above 0", below)


def check_not_negative(args: Namespace, *names: str) -> None:
    """Refuse values of flags that are negative or too large.

    Args:
        args: Flags of the run.
        names: Names of the flags, without dashes.
    """
    _check_range(args, names, "0 or more", LARGEST_COUNT)


def _check_range(args: Namespace, names: Sequence[str], lowest: str, below: int) -> None:
    for name in names:
        value = getattr(args, name, None)
        for number in value if isinstance(value, list) else [value]:
            is_zero = number == 0 and lowest == "0 or more"
            limit, shown = (below, f"below {below:,}") if isinstance(number, int) else _FINITE
            if number is not None and not is_zero and not 0 < number < limit:
                raise UserError(f"--{name} must be {lowest} and {shown}, not {number}")


def check_fraction(flag: str, frac: float, *, or_zero: bool = False) -> None:
    """Refuse a fraction that is not in 0..1.

    Args:
        flag: Name of the flag, without dashes.
        frac: Its value.
        or_zero: Whether 0 is accepted.
    """
    if not 0 <= frac <= 1 or (frac == 0 and not or_zero):
        lowest = "in 0..1" if or_zero else "above 0 and at most 1"
        raise UserError(f"--{flag} must be {lowest}, not {frac:g}")
