"""Files of a collected place: a GeoTIFF per band, metadata, and the whole folder or nothing.

``.partial-<shard>/000123/`` is filled, every file of it brought to the disk, and then renamed to
``000123/`` at once.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from datasets.bands import RESOLUTION_M, RGB_BANDS, RGB_QUANTILES
from datasets.collect.journal import Record, Shard
from datasets.collect.scenes import Array, PatchGrid, Place, Scene
from datasets.collect.settings import Settings
from datasets.collect.utm import utm_crs
from utils.errors import UserError
from utils.files import written_whole

# Differences of neighbours at level 1: level 6 takes a third longer, and saves 0 to 6 %.
_COMPRESSION: dict[str, dict[str, Any]] = {
    "deflate": {"compress": "deflate", "zlevel": 1, "predictor": 2},
    "jpeg": {"compress": "jpeg"},
}
METADATA_NAME = "metadata.json"


class PlaceWriter:
    """Writes places of a collection; its drafts may be used by many threads.

    Args:
        save_path: Folder of the collection.
        settings: Bands, dtype, compression and previews.
        origin: Collection, source and client, for the metadata.
        shard: Number and count.
        root: Folder in which a place's folder appears, if it is not that of the collection.
    """

    def __init__(
        self,
        save_path: Path,
        settings: Settings,
        origin: dict[str, str],
        shard: Shard,
        root: Path | None = None,
    ) -> None:
        self.root = root or save_path
        # Hidden from programs that list the collection.
        self.staging = save_path / f".partial-{shard[0]}-of-{shard[1]}"
        self.settings = settings
        self.origin = origin
        self.previews = preview_folder(save_path) if settings.preview else None

    def draft(self, place: Place) -> "Draft":
        """Begin a place; what an earlier run left of it is removed."""
        return Draft(self, place)

    def clear(self) -> None:
        """Remove what is left of places that were not completed.

        Also of runs with another number of shards, of which none runs at the same time
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
        self._num_bytes = 0
        self._hashes: dict[str, str] = {}  # by the names of files within the place
        self._scenes: list[str] = []
        self._passed_over: list[str] = []
        self._pictures: dict[str, Array] = {}
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, scene: Scene, images: dict[str, Array], passed_over: Sequence[str] = ()) -> None:
        """Write the bands of a scene.

        Args:
            scene: Scene that is taken.
            images: Digital numbers, uint16, each at its own resolution.
            passed_over: Better scenes of its window, each with the reason in words.
        """
        settings, grid = self._writer.settings, self.place.grid
        with rasterio.Env():  # else each file sets one up
            files = {
                f"{band}.tif": encode(
                    convert(images[band], settings.dtype),
                    grid,
                    RESOLUTION_M[band],
                    settings.compress,
                )
                for band in settings.bands
            }
        metadata = describe(self._writer.origin, self.place, scene, settings, files)
        if passed_over:
            metadata["passed_over"] = list(passed_over)
        files[METADATA_NAME] = (json.dumps(metadata, indent=1) + "\n").encode()
        folder = self._folder / scene.name
        try:
            folder.mkdir(parents=True)
            for name, content in files.items():
                _write_synced(folder / name, content)
                self._num_bytes += len(content)
                self._hashes[f"{scene.name}/{name}"] = hashlib.sha256(content).hexdigest()
            _sync_folder(folder)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._scenes.append(scene.name)
        self._passed_over += passed_over
        if self._writer.previews is not None:
            stored = [convert(images[band], "uint8") for band in RGB_BANDS]
            self._pictures[scene.name] = np.stack(stored)

    def finish(self) -> Record:
        """Let the place appear, and return its record."""
        target = self._writer.root / self.place.name
        try:
            if self._writer.previews is not None:
                write_preview(self._writer.previews, self.place, self._pictures)
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
            num_bytes=self._num_bytes,
            sha256=place_hash(self._hashes),
            passed_over=tuple(self._passed_over),
        )

    def discard(self) -> None:
        """Remove what has been written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _cannot_write(self, error: OSError) -> UserError:
        self.discard()
        return UserError(
            f"cannot write {self._writer.root / self.place.name} ({error.strerror}): make room, "
            "and run the same command again to resume"
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
    files: dict[str, bytes],
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
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
        "properties": scene.properties,
    }


def place_hash(hashes: dict[str, str]) -> str:
    """Hash a place from the hashes of its files, by their names within it."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def preview_folder(save_path: Path) -> Path:
    """Return the folder of pictures, next to the collection.

    Not within it: programs that read a place take every picture for a band.
    """
    return save_path.resolve().with_name(f"{save_path.resolve().name}_previews")


def write_preview(folder: Path, place: Place, images: dict[str, Array]) -> None:
    """Write 000123.png: the dates of a place side by side, oldest first.

    Args:
        folder: Folder of the pictures.
        place: Place that is shown.
        images: By the name of the scene: uint8 as stored, (3, H, W), red first.
    """
    dates = [stretch(images[name]) for name in sorted(images)]
    strip = np.concatenate(dates, axis=2).transpose(1, 2, 0)
    with written_whole(folder / f"{place.name}.png") as partial:
        Image.fromarray(np.ascontiguousarray(strip)).save(partial, "png")


def stretch(image: Array) -> Array:
    """Stretch red, green and blue, (3, H, W), by the published quantiles to 0..255."""
    low, high = (np.array([RGB_QUANTILES[band][end] for band in RGB_BANDS]) for end in (0, 1))
    scaled = (image - low[:, None, None]) / (high - low)[:, None, None]
    return np.asarray((np.clip(scaled, 0, 1) * 255).astype(np.uint8))


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
