"""Find out what ``--data_dir`` is, and open it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from datasets.bands import RGB_BANDS, check_stored
from datasets.seco.patches import SecoPatches, is_seco
from datasets.seco.pictures import Pictures
from datasets.store.journal import JOURNAL_NAME
from datasets.store.litdata_manifest import is_litdata
from datasets.store.manifest import PICTURE_BANDS
from datasets.store.reader import PackedStore, is_packed
from utils.errors import UserError

if TYPE_CHECKING:
    from datasets.store.litdata import StreamedPlaces

Patches: TypeAlias = "SecoPatches | Pictures | PackedStore | StreamedPlaces"


def open_patches(data_dir: Path, bands: Sequence[str], image_list: Path | None = None) -> Patches:
    """Open a packed store, a SeCo folder or zip, a folder or zip of pictures, or a stream.

    Args:
        data_dir: What the user named.
        bands: Bands of SeCo patches in channel order; pictures have red, green, blue only.
        image_list: File that restricts the pictures, see ``Pictures``.
    """
    bands = tuple(bands)
    if is_packed(data_dir):
        store = PackedStore(data_dir, bands, image_list)
        if store.manifest.kind == "pictures":
            _refuse_bands(data_dir, bands)
        return store
    if (data_dir / JOURNAL_NAME).exists():
        raise UserError(
            f"{data_dir} is not packed to the end: run the same command of datasets/seco_packed.py "
            "again, which goes on where it stopped"
        )
    if is_litdata(data_dir):
        if image_list is not None:
            raise UserError(f"--image_list is for pictures, but {data_dir} holds LitData chunks")
        from datasets.store.litdata import StreamedPlaces  # needs torch, which packing does without

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


def _refuse_bands(data_dir: Path, bands: tuple[str, ...]) -> None:
    if bands != RGB_BANDS:
        raise UserError(f"{data_dir} holds pictures, which have no --bands to choose")
