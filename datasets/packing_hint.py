"""What packing a data set would save, measured on the data set itself."""

import shlex
import time
from pathlib import Path

from datasets.bad_patches import BadPatchError
from datasets.bands import RGB_BANDS
from datasets.packed_manifest import PICTURE_BANDS
from datasets.packed_store import PackedStore
from datasets.patch_dataset import PatchDataset
from datasets.seco_litdata import StreamedPlaces

_SAMPLES = 4


def packing_hint(dataset: PatchDataset, data_dir: Path) -> str | None:
    """Tell how much faster a packed store of the same patches is read, and how to make it.

    Reads a few samples, once as they are and once as rows in memory, as a store in the page cache
    holds them.

    Returns:
        A sentence; None for a store or a stream, or where nothing can be measured.
    """
    if isinstance(dataset.source, PackedStore | StreamedPlaces):
        return None
    started = time.perf_counter()
    try:
        samples = [dataset[0, index]["patches"].numpy() for index in range(_SAMPLES)]
    except (BadPatchError, IndexError):
        return None
    reading_s = (time.perf_counter() - started) / _SAMPLES
    started = time.perf_counter()
    copies = [sample.copy() for sample in samples]
    copying_s = (time.perf_counter() - started) / len(copies)
    bands = dataset.source.input_spec.bands
    choice = [] if bands in (RGB_BANDS, PICTURE_BANDS) else ["--bands", *bands]
    root = data_dir if data_dir.name not in ("", "..") else data_dir.resolve()
    target = root.with_name(f"{root.name.removesuffix('.zip')}_packed")
    command = ["--data_dir", str(data_dir), "--save_path", str(target), *choice]
    return (
        f"reading a sample takes {1000 * reading_s:.1f} ms of a core, copying one out of a packed "
        f"store about {1000 * copying_s:.2g} ms, {reading_s / copying_s:.0f} times as fast; pack "
        "it once with\n"
        f"  python datasets/seco_packed.py {shlex.join(command)}"
    )
