"""Files of a collected place: a GeoTIFF per band, metadata, and the whole folder or nothing.

``.partial-<shard>/000123/`` is filled, every file of it brought to the disk, and then renamed to
``000123/`` at once.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from datasets.bands import RESOLUTION_M
from datasets.collect.journal import Record, Shard
from datasets.collect.preview import preview_folder, write_preview
from datasets.collect.scenes import Array, PatchGrid, Place, Scene
from datasets.collect.settings import Settings
from utils.errors import UserError

# Differences of neighbours at level 1: level 6 takes a third longer, and saves 0 to 6 %.
_COMPRESSION: dict[str, dict[str, Any]] = {
    "deflate": {"compress": "deflate", "zlevel": 1, "predictor": 2},
    "jpeg": {"compress": "jpeg"},
}
METADATA_NAME = "metadata.json"


@dataclass(frozen=True)
class WrittenFile:
    """A file of a place: its size and the sha256 of its bytes."""

    num_bytes: int
    sha256: str


class PlaceWriter:
    """Writes places of a collection; its drafts may be used by many threads.

    Args:
        root: Folder in which a place's folder appears.
        staging: Folder for places that are not complete.
        settings: How files look.
        origin: Collection, source and client, for the metadata.
        previews: Folder for pictures of places, or None.
    """

    def __init__(
        self,
        root: Path,
        staging: Path,
        settings: Settings,
        origin: dict[str, str],
        previews: Path | None = None,
    ) -> None:
        self.root = root
        self.staging = staging
        self.settings = settings
        self.origin = origin
        self.previews = previews

    def draft(self, place: Place) -> "Draft":
        """Begin a place; what an earlier run left of it goes."""
        return Draft(self, place)

    def clear(self) -> None:
        """Remove what is left of places that were not completed.

        Also of runs with another number of shards, of which none is beside this one
        (``Journal.opened``).
        """
        count = self.staging.name.rpartition("-of-")[2]
        for path in [self.staging, *self.staging.parent.glob(".partial-*-of-*")]:
            is_ours = path == self.staging or path.name.rpartition("-of-")[2] != count
            if is_ours and path.is_dir():  # rmtree waits for a writer of a pipe
                shutil.rmtree(path, ignore_errors=True)


class Draft:
    """A place that is being written; nothing of it can be seen before ``finish``."""

    def __init__(self, writer: PlaceWriter, place: Place) -> None:
        self.place = place
        self._writer = writer
        self._folder = writer.staging / place.name
        self._files: dict[str, WrittenFile] = {}
        self._scenes: list[str] = []
        self._passed_over: list[str] = []
        self._red_green_blue: dict[str, Array] = {}
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, scene: Scene, images: dict[str, Array], passed_over: Sequence[str] = ()) -> None:
        """Write the bands of a scene.

        Args:
            scene: What is taken.
            images: Digital numbers, uint16, each at its own resolution.
            passed_over: Better scenes of its window, each with the reason in words.
        """
        settings, grid = self._writer.settings, self.place.grid
        stored = {band: convert(images[band], settings.dtype) for band in settings.bands}
        with rasterio.Env():  # else each file sets one up
            files = {
                f"{band}.tif": encode(image, grid, RESOLUTION_M[band], settings.compress)
                for band, image in stored.items()
            }
        facts = {name: written(content) for name, content in files.items()}
        metadata = describe(self._writer.origin, self.place, scene, settings, facts)
        if passed_over:
            metadata["passed_over"] = list(passed_over)
        files[METADATA_NAME] = (json.dumps(metadata, indent=1) + "\n").encode()
        facts[METADATA_NAME] = written(files[METADATA_NAME])
        folder = self._folder / scene.name
        try:
            folder.mkdir(parents=True)
            for name, content in files.items():
                _write_synced(folder / name, content)
            _sync_folder(folder)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._files |= {f"{scene.name}/{name}": file for name, file in facts.items()}
        self._scenes.append(scene.name)
        self._passed_over += passed_over
        if self._writer.previews is not None:
            self._red_green_blue[scene.name] = preview_bands(images)

    def finish(self) -> Record:
        """Let the place appear, and return what to note of it."""
        target = self._writer.root / self.place.name
        try:
            if self._writer.previews is not None:
                write_preview(self._writer.previews, self.place, self._red_green_blue)
            _sync_folder(self._folder)
            if os.path.lexists(target):  # a killed run finished it, but did not note it
                old = self._folder.with_name(f"{self.place.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                else:
                    old.unlink()
            self._folder.rename(target)
            _sync_folder(self._writer.root)
        except OSError as error:
            raise self._cannot_write(error) from error
        return Record(
            self.place.number,
            "done",
            scenes=tuple(sorted(self._scenes)),
            num_bytes=sum(file.num_bytes for file in self._files.values()),
            sha256=place_hash({name: file.sha256 for name, file in self._files.items()}),
            passed_over=tuple(self._passed_over),
        )

    def discard(self) -> None:
        """Remove what has been written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _cannot_write(self, error: OSError) -> UserError:
        self.discard()
        return UserError(
            f"cannot write {self._writer.root / self.place.name} ({error.strerror}): make room, "
            "and run the same command again, which goes on"
        )


def convert(image: Array, dtype: str) -> Array:
    """Store digital numbers as they are, or as 255 times reflectance, truncated as the archives."""
    if dtype == "uint16":
        return image
    return np.asarray(np.minimum(image, 10_000).astype(np.uint32) * 255 // 10_000, dtype=np.uint8)


def encode(image: Array, grid: PatchGrid, resolution_m: int, compress: str) -> bytes:
    """Return a GeoTIFF of one band; the same image gives the same bytes."""
    height, width = image.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=1,
            height=height,
            width=width,
            dtype=image.dtype,
            crs=utm_crs(grid.epsg),
            transform=from_origin(grid.left, grid.top, resolution_m, resolution_m),
            **_COMPRESSION[compress],
        ) as file:
            file.write(image, 1)
        return bytes(memory.getbuffer())


def describe(
    origin: dict[str, str],
    place: Place,
    scene: Scene,
    settings: Settings,
    files: dict[str, WrittenFile],
) -> dict[str, Any]:
    """Return the metadata of a scene: no time of writing, so that a repeat gives the same bytes."""
    grid = place.grid
    return {
        **origin,
        "scene": scene.name,
        "time": scene.start.isoformat(),
        "cloud_percent": scene.cloud_percent,
        "clear_fraction": scene.clear_fraction,
        "valid_fraction": scene.valid_fraction,
        "processing_baseline": scene.baseline,
        "latitude": round(place.latitude, 6),
        "longitude": round(place.longitude, 6),
        "crs": f"EPSG:{grid.epsg}",
        "transform": [10, 0, grid.left, 0, -10, grid.top],
        "unit": "255 * reflectance" if settings.dtype == "uint8" else "10000 * reflectance",
        "bands": {band: {"resolution_m": RESOLUTION_M[band]} for band in settings.bands},
        "files": {
            name: {"bytes": file.num_bytes, "sha256": file.sha256} for name, file in files.items()
        },
        "properties": scene.properties,
    }


def place_hash(hashes: dict[str, str]) -> str:
    """Hash a place from the hashes of its files, by their names within it."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def written(content: bytes) -> WrittenFile:
    """Describe a file by its bytes."""
    return WrittenFile(len(content), hashlib.sha256(content).hexdigest())


def staging_of(save_path: Path, shard: Shard) -> Path:
    """Return the folder of unfinished places, hidden from those who list the collection."""
    return save_path / f".partial-{shard[0]}-of-{shard[1]}"


def place_writer(
    save_path: Path,
    settings: Settings,
    origin: dict[str, str],
    shard: Shard,
    root: Path | None = None,
) -> PlaceWriter:
    """Return a writer of places into the collection itself, or into ``root`` within it."""
    previews = preview_folder(save_path) if settings.preview else None
    staging = staging_of(save_path, shard)
    return PlaceWriter(root or save_path, staging, settings, origin, previews)


def preview_bands(images: dict[str, Array]) -> Array:
    """Stack what a picture needs: red, green, blue as stored in uint8, (3, H, W)."""
    return np.stack([convert(images[band], "uint8") for band in ("B4", "B3", "B2")])


@lru_cache(maxsize=128)
def utm_crs(epsg: int) -> CRS:
    """Look a code up once: it costs as much as writing a file."""
    try:
        return CRS.from_epsg(epsg)
    except CRSError as error:
        raise UserError(
            "PROJ does not find its table of coordinate systems: unset PROJ_DATA and PROJ_LIB, and "
            "run the same command again, which goes on"
        ) from error


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
