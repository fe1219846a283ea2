"""Which views are contrasted, and the flags of the patches; imports no torch."""

from pathlib import Path
from typing import NamedTuple

from datasets.bands import RGB_BANDS
from utils.flags import Parser


class View(NamedTuple):
    """A picture that an encoder sees."""

    date: int  # which of the sample's dates
    synthetic: bool  # colour, blur and flip change it; otherwise only the random crop does


class DataMode(NamedTuple):
    """Which dates are a sample, and which views are made of them."""

    num_dates: int  # of a sample
    every_date: bool  # each date of a place is a sample of its own
    crop_first: bool  # before colour and blur, as MoCo does; SeCo changes the whole patch first
    views: tuple[View, ...]  # the query, then the key of each embedding space

    @property
    def emb_spaces(self) -> int:
        """Number of embedding spaces, each with a head and a queue."""
        return len(self.views) - 1

    @property
    def streams(self) -> dict[int, bool]:
        """For the number of each view, whether it is synthetic."""
        return {number: view.synthetic for number, view in enumerate(self.views)}

    @property
    def space_names(self) -> list[str]:
        """Names of the spaces: how each key differs from the query, which becomes invariant."""
        query, *keys = self.views
        kinds = {(True, True): "all", (True, False): "season", (False, True): "synthetic"}
        return [kinds[key.date != query.date, key.synthetic] for key in keys]

    @property
    def view_labels(self) -> list[str]:
        """Title of each view in two lines, the query first."""
        names = ["query", *(f"key {n}: {name}" for n, name in enumerate(self.space_names))]
        days = [f"date t{view.date}, " if self.num_dates > 1 else "" for view in self.views]
        dates = [
            (day + "augmented" * view.synthetic).removesuffix(", ")
            for day, view in zip(days, self.views, strict=True)
        ]
        return [f"{name}\n{date}" for name, date in zip(names, dates, strict=True)]


DATA_MODES = {
    "moco": DataMode(1, True, True, (View(0, True), View(0, True))),
    "moco_tp": DataMode(2, False, True, (View(0, True), View(1, True))),
    # Figure 2 of the paper. Keys 0, 1, 2: all, temporal, synthetic transformations.
    "seco": DataMode(
        3, False, False, (View(0, False), View(1, True), View(2, False), View(0, True))
    ),
}


def add_data_args(parser: Parser) -> None:
    """Add the flags of the patches."""
    add = parser.group("data").add_argument
    modes = "Views: of one picture (moco), of two dates (moco_tp), or SeCo's three spaces (seco)."
    add("--data_mode", choices=DATA_MODES, default="seco", help=modes)
    bands = "Bands of SeCo patches in channel order."
    add("--bands", nargs="+", metavar="BAND", default=list(RGB_BANDS), help=bands)
    cache = "Where a packed store is read from: its files, the memory, or the GPU's memory."
    add("--cache", choices=["mmap", "ram", "gpu"], default="mmap", help=cache)
    add("--image_list", type=Path, help="File with a picture per line, for --data_mode moco.")
    bad = "Stop at a patch that cannot be read, or skip it."
    add("--on_bad_patch", choices=["raise", "skip"], default="raise", help=bad)
