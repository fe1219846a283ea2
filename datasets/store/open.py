"""Detect what ``--data_dir`` is, and open it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from datasets.bands import RGB_BANDS, check_stored
from datasets.seco.patches import SecoPatches, is_seco
from datasets.seco.pictures import Pictures
from datasets.store.litdata import StreamedPlaces, is_litdata
from datasets.store.manifest import PICTURE_BANDS
from datasets.store.reader import PackedStore, is_packed
from datasets.store.writer import is_begun
from utils.errors import UserError

Patches: TypeAlias = SecoPatches | Pictures | PackedStore | StreamedPlaces


def open_patches(data_dir: Path, bands: Sequence[str], image_list: Path | None = None) -> Patches:
    """Open a packed store, a SeCo folder or zip, a folder or zip of pictures, or a stream.

    Args:
        data_dir: Path from ``--data_dir``.
        bands: Bands of SeCo patches in channel order; pictures have red, green, blue only.
        image_list: File that restricts the pictures, see ``Pictures``.

    Raises:
        UserError: The data are damaged or incomplete, or another kind than the arguments fit.
    """
    patches: Patches
    if is_packed(data_dir):
        patches = PackedStore(data_dir, bands, image_list)
    elif is_begun(data_dir):
        raise UserError(
            f"{data_dir} is not packed to the end: run the same command of datasets/seco_packed.py "
            "again, which resumes where it stopped"
        )
    elif is_litdata(data_dir):
        patches = StreamedPlaces(data_dir)
    elif is_seco(data_dir):
        patches = SecoPatches(data_dir, bands)
        check_stored(patches.samples(), str(data_dir))
    else:
        patches = Pictures(data_dir, image_list)
    is_pictures = patches.bands == PICTURE_BANDS
    if is_pictures and tuple(bands) != RGB_BANDS:
        raise UserError(
            f"{data_dir} holds pictures: leave --bands out, as --preset small_images does"
        )
    if image_list is not None and not isinstance(patches, Pictures | PackedStore):
        kind = "LitData chunks" if isinstance(patches, StreamedPlaces) else "SeCo patches"
        raise UserError(f"--image_list is for pictures, but {data_dir} holds {kind}")
    if isinstance(patches, StreamedPlaces) and not is_pictures:
        patches.check_bands(bands)
    return patches
