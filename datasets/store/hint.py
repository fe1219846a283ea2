"""A sentence that points to the packed store of a data set, or to the command that writes it."""

import shlex
from pathlib import Path

from datasets.bands import RGB_BANDS
from datasets.seco.samples import PatchSource
from datasets.store.litdata import StreamedPlaces
from datasets.store.manifest import PICTURE_BANDS
from datasets.store.reader import PackedStore, is_packed


def packing_hint(source: PatchSource, data_dir: Path) -> str | None:
    """Return the hint for patches that are read from single files; None for a store or a stream."""
    if isinstance(source, PackedStore | StreamedPlaces):
        return None
    root = data_dir if data_dir.name not in ("", "..") else data_dir.resolve()
    store = root.with_name(f"{root.name.removesuffix('.zip')}_packed")
    if is_packed(store):
        return f"{store} is a packed store, which is read much faster: give it to --data_dir"
    bands = source.input_spec.bands
    choice = [] if bands in (RGB_BANDS, PICTURE_BANDS) else ["--bands", *bands]
    command = ["--data_dir", str(data_dir), "--save_path", str(store), *choice]
    return (
        "single files are slow to read: pack them once, and give the store to --data_dir\n"
        f"  python datasets/seco_packed.py {shlex.join(command)}"
    )
