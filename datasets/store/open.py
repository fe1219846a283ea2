"""Detect what ``--data_dir`` is, and open it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from datasets.bands import RGB_BANDS, check_stored
from datasets.seco.patches import SecoPatches, is_seco
from datasets.seco.pictures import Pictures
from datasets.store.litdata import StreamedPlaces, is_litdata
from datasets.store.manifest import PICTURE_BANDS
from datasets.store.reader import PackedStore, is_packed
from datasets.store.writer import is_begun
from utils.errors import UserError

if TYPE_CHECKING:  # packing does without torch
    from datasets.seco.samples import PatchSource

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
    bands = tuple(bands)
    if is_packed(data_dir):
        store = PackedStore(data_dir, bands, image_list)
        if store.manifest.kind == "pictures":
            _refuse_bands(data_dir, bands)
        return store
    if is_begun(data_dir):
        raise UserError(
            f"{data_dir} is not packed to the end: run the same command of datasets/seco_packed.py "
            "again, which resumes where it stopped"
        )
    if is_litdata(data_dir):
        if image_list is not None:
            raise UserError(f"--image_list is for pictures, but {data_dir} holds LitData chunks")
        places = StreamedPlaces(data_dir)
        if places.bands == PICTURE_BANDS:
            _refuse_bands(data_dir, bands)
        else:
            places.check_bands(bands)
        return places
    if is_seco(data_dir):
        if image_list is not None:
            raise UserError(f"--image_list is for pictures, but {data_dir} holds SeCo patches")
        patches = SecoPatches(data_dir, bands)
        check_stored(patches.samples(), str(data_dir))
        return patches
    pictures = Pictures(data_dir, image_list)
    _refuse_bands(data_dir, bands)
    return pictures


def packing_hint(source: PatchSource, data_dir: Path) -> str | None:
    """Return the advice to pack patches that are read from single files; None for others."""
    if not isinstance(source, SecoPatches | Pictures):
        return None
    return (
        f"{data_dir} is read from single files, which is slow: pack it once with "
        "datasets/seco_packed.py, and give the store to --data_dir"
    )


def _refuse_bands(data_dir: Path, bands: tuple[str, ...]) -> None:
    if bands != RGB_BANDS:
        raise UserError(f"{data_dir} holds pictures, which have no --bands to choose")
