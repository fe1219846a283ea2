"""A SeCo archive to measure on: JPEG-compressed GeoTIFFs of 264 px, as folder, zip and store."""

import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rasterio

from datasets.bands import RGB_BANDS
from datasets.mini_earth import write_seco
from datasets.seco.patches import SecoPatches
from datasets.store.writer import pack
from utils.cores import available_cores

NUM_DATES = 5  # as in the archives
_LAYOUT = ("driver", "dtype", "count", "height", "width", "crs", "transform")


@dataclass(frozen=True)
class Archive:
    """The same places in three shapes.

    Attributes:
        folder: Places as they come out of the zip.
        zip: The zip.
        store: Packed by datasets/seco_packed.py.
    """

    folder: Path
    zip: Path
    store: Path

    @classmethod
    def beside(cls, folder: Path, scratch: Path) -> "Archive":
        """Zip and pack a folder into another one."""
        archive = cls(folder, scratch / "seco.zip", scratch / "store")
        write_zip(archive.folder, archive.zip)
        pack(SecoPatches(archive.folder), archive.store, num_workers=available_cores())
        return archive


def write_folder(root: Path, num_places: int, num_drawn: int, size: int = 264) -> None:
    """Write places of the miniature Earth as the published archives hold them.

    Args:
        root: Folder to create.
        num_places: Places, at least ``num_drawn``.
        num_drawn: Places that are drawn; the others are links to their files.
        size: Side in pixels.
    """
    write_seco(root, num_places=num_drawn, num_dates=NUM_DATES, size=size, bands=RGB_BANDS)
    for path in sorted(root.glob("*/*/*.tif")):
        compress_as_jpeg(path)
    link_places(sorted(root.iterdir()), root, num_places)


def copy_folder(source: Path, root: Path, num_places: int) -> None:
    """Copy the first places of a user's folder; if it has fewer, they are linked to."""
    places = [path for path in sorted(source.iterdir()) if path.is_dir()][:num_places]
    for number, place in enumerate(places):
        shutil.copytree(place, root / f"{number:06d}")
    link_places(sorted(root.iterdir()), root, num_places)


def link_places(places: Sequence[Path], root: Path, num_places: int) -> None:
    """Fill up a folder with links: whoever reads a linked place decodes, or packs, it anew."""
    for number in range(len(places), num_places):
        twin = places[number % len(places)]
        shutil.copytree(twin, root / f"{number:06d}", copy_function=os.link)


def compress_as_jpeg(path: Path) -> None:
    """Write a GeoTIFF again as the archives are compressed: the miniature Earth is lossless."""
    with rasterio.open(path) as file:
        image = file.read()
        layout = {key: file.profile[key] for key in _LAYOUT}
    with rasterio.open(path, "w", **layout, compress="JPEG") as file:
        file.write(image)


def write_zip(folder: Path, path: Path) -> None:
    """Zip a folder with its name on top, as the archives are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
