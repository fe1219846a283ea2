"""What ``verify.py`` finds: problems by kind."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MISSING, DAMAGED, EXTRA = "missing", "damaged", "extra file"
SIZE, TYPE, ZEROED = "wrong size", "wrong type", "zeroed band"
SWAPPED, DUPLICATE, PLACE = "perhaps swapped bands", "duplicate", "wrong georeference"
LABEL, LEAK = "missing or unknown label", "leaking splits"
KINDS = (*(MISSING, DAMAGED, EXTRA, SIZE, TYPE, ZEROED), *(SWAPPED, DUPLICATE, PLACE, LABEL, LEAK))
JPEG_NOTE = (
    "a changed bit in a JPEG, which has no checksum, often decodes to other pixels without an error"
)
PLAIN_NOTE = "a changed bit in a GeoTIFF that is not compressed is another value, without an error"
# By the number of Compression (TIFF 6.0, and its Technical Note 2); Deflate ends in a checksum.
BIT_NOTES = {1: PLAIN_NOTE, 7: JPEG_NOTE}
SWAP_NOTE = "two bands of one size that were swapped, if they are neighbours in wavelength"
_KEPT = 10_000  # problems of a kind that are kept with their names


class Problem(NamedTuple):
    """Something wrong with a data set.

    Args:
        kind: One of ``KINDS``.
        name: File or patch, relative to the data set.
        what: The fault, in words.
    """

    kind: str
    name: str
    what: str


@dataclass
class Report:
    """What the check of a place, patch or picture found."""

    problems: list[Problem] = field(default_factory=list)  # in the order of the files
    # Hashes of the pixels of its files, by name; constant ones are left out.
    contents: dict[str, int] = field(default_factory=dict)
    num_files: int = 0  # that were read
    place: int = 0  # hash of the place on the ground; 0 if it is not known
    notes: set[str] = field(default_factory=set)  # what cannot be found in its files


class Tally:
    """Problems by kind: all are counted, the first ones are kept.

    Args:
        notes: What cannot be found in such data.
    """

    def __init__(self, notes: Sequence[str] = ()) -> None:
        self.notes = list(notes)
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Problem]] = defaultdict(list)
        self.num_files = 0

    def add_notes(self, notes: Iterable[str]) -> None:
        """Add what cannot be found, each once."""
        self.notes += sorted(set(notes) - {*self.notes})

    def add(self, problems: Sequence[Problem]) -> None:
        """Count some problems."""
        for problem in problems:
            self.counts[problem.kind] += 1
            if len(self.kept[problem.kind]) < _KEPT:
                self.kept[problem.kind].append(problem)

    def to_json(self) -> dict[str, Any]:
        """Return counts, and kind, name and fault of what was kept."""
        names = ("kind", "name", "what")
        kept = (problem for problems in self.kept.values() for problem in problems)
        problems = [dict(zip(names, problem, strict=True)) for problem in kept]
        summary = {"files": self.num_files, "counts": dict(self.counts), "problems": problems}
        return summary | {"not_found": self.notes}
