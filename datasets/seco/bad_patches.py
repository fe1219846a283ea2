"""Patches that cannot be used or hold nothing: errors, skipping them, and the lists of a run."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from utils.errors import UserError
from utils.folders import make_folder

OnBadPatch = Literal["raise", "skip"]
MAX_BAD_FRACTION = 0.01  # of the samples of a data set; more point to a damaged copy
LIST_NAME = "bad_patches.txt"
_MANY = 20  # constant patches that are named

T = TypeVar("T")


class BadPatchError(UserError):
    """A damaged or empty patch, which may be skipped, unlike data of the wrong size or type.

    Args:
        name: The file, or the folder of an empty patch; or the whole text, from which torch builds
            the error of a worker process again.
        reason: Its fault, such as "is missing".
    """

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__(
            f"{name} {reason}: replace it, or skip it with on_bad_patch skip" if reason else name
        )
        self.name = name
        self.reason = reason


def first_good(
    read: Callable[[int], T], index: int, num_samples: int, on_bad_patch: OnBadPatch
) -> tuple[T, list[str]]:
    """Read a sample; if it is bad and may be skipped, read the next good one.

    Args:
        read: Reads the sample of an index.
        index: Index of the requested sample, in 0..``num_samples`` - 1.
        num_samples: Number of samples; the first one follows the last one.
        on_bad_patch: Raise the ``BadPatchError`` of ``read``, or skip the sample.

    Returns:
        The result of ``read``, and the names of the bad patches before it.
    """
    bad: list[str] = []
    while True:
        try:
            return read((index + len(bad)) % num_samples), bad
        except BadPatchError as error:
            if on_bad_patch == "raise":
                raise
            bad.append(error.name)
            check_bad_count(bad, num_samples)


def first_readable(read: Callable[[int], T], num_patches: int) -> T:
    """Read the first good patch as an example of all; if 100 are bad, raise the error of the first.

    Args:
        read: Reads a patch by its number.
        num_patches: Number of patches.
    """
    for patch in range(min(num_patches, 100)):
        with suppress(BadPatchError):
            return read(patch)
    return read(0)


def check_bad_count(bad: Sequence[str], num_samples: int) -> None:
    """Refuse a data set of which more than ``MAX_BAD_FRACTION`` is bad.

    Args:
        bad: Names of the bad samples.
        num_samples: Number of all samples.
    """
    if len(bad) > MAX_BAD_FRACTION * num_samples:
        raise UserError(
            f"more than {MAX_BAD_FRACTION:.0%} of {num_samples} samples are bad, {len(bad)} so "
            f"far, such as {bad[0]}: check the copy of the data set"
        )


def are_constant(patches: np.ndarray) -> np.ndarray:
    """Find patches without content: each of their bands has one value.

    Args:
        patches: Any type, shape (..., C, H, W).

    Returns:
        bool, shape (...).
    """
    height, width = patches.shape[-2:]
    few = patches[..., height // 2, :: max(1, width // 16)]  # nearly all patches differ here
    found = (few == few[..., :1]).all((-1, -2))
    for index in np.argwhere(found):
        patch = patches[tuple(index)]
        found[tuple(index)] = (patch == patch[:, :1, :1]).all()
    return found


class ConstantPatches:
    """Warn once about each constant patch, until there are many."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add(self, names: Sequence[str]) -> None:
        """Add the names of patches."""
        for name in names:
            if name not in self.names and len(self.names) < _MANY:
                self.names.add(name)
                more = ", and perhaps others" * (len(self.names) == _MANY)
                warnings.warn(
                    f"patch {name} is constant{more}: nothing can be learned from it; check the "
                    "data",
                    stacklevel=2,
                )


class BadPatchList:
    """The distinct bad patches of a run.

    Args:
        num_samples: Number of samples, of which only a share may be bad.
        folder: Folder of ``bad_patches.txt``; None writes no file.
    """

    def __init__(self, num_samples: int, folder: Path | None) -> None:
        self.names: dict[str, None] = {}  # a set that keeps its order
        self._num_samples = num_samples
        self._path = folder / LIST_NAME if folder else None

    def add(self, names: Sequence[str]) -> None:
        """Add bad patches; warn about the first one, and stop the run when there are too many."""
        new = [name for name in dict.fromkeys(names) if name not in self.names]
        if not new:
            return
        if self._path:
            make_folder(self._path.parent)
            with self._path.open("a") as file:
                file.writelines(f"{name}\n" for name in new)
        if not self.names:
            where = f", listed in {self._path}" if self._path else ""
            warnings.warn(f"skipping bad patches{where}, the first is {new[0]}", stacklevel=2)
        self.names |= dict.fromkeys(new)
        check_bad_count(list(self.names), self._num_samples)
