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
from PIL import Image

from datasets.bands import RESOLUTION_M, RGB_BANDS, RGB_QUANTILES
from datasets.collect.journal import Record, Shard
from datasets.collect.scenes import Array, Place, Scene
from datasets.collect.settings import Settings
from datasets.geotiff.writer import encode_geotiff, utm_tags
from utils.errors import UserError, os_error_sentence
from utils.files import flush_entry, written_whole
from utils.folders import make_folder

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
        # Next to the collection: programs that read a place take every picture in it for a band.
        folder = save_path.resolve()
        self.previews = folder.with_name(f"{folder.name}_previews") if settings.preview else None

    def clear(self) -> None:
        """Remove unfinished places, also of another number of shards: none of these runs now."""
        count = self.staging.name.rpartition("-of-")[2]
        for path in [self.staging, *self.staging.parent.glob(".partial-*-of-*")]:
            is_ours = path == self.staging or path.name.rpartition("-of-")[2] != count
            if is_ours and path.is_dir():  # rmtree waits for a writer of a pipe
                shutil.rmtree(path, ignore_errors=True)


class Draft:
    """The encoded files of a place; they are in memory until ``finish`` writes them.

    Args:
        writer: Writer of the collection.
        place: Place to write.
    """

    def __init__(self, writer: PlaceWriter, place: Place) -> None:
        self.place = place
        self._writer = writer
        self._files: dict[str, bytes] = {}  # by their names within the place
        self._passed_over: list[str] = []
        self._pictures: dict[str, Array] = {}

    def add(self, scene: Scene, images: dict[str, Array], passed_over: Sequence[str] = ()) -> None:
        """Encode the bands of a scene.

        Args:
            scene: Scene that is taken.
            images: Digital numbers, uint16, each at its own resolution.
            passed_over: Better scenes of its window, each with the reason in words.
        """
        settings, grid = self._writer.settings, self.place.grid
        files: dict[str, bytes] = {}
        for band in settings.bands:
            place = utm_tags(grid.epsg, grid.left, grid.top, RESOLUTION_M[band])
            stored = convert(images[band], settings.dtype)
            files[f"{band}.tif"] = encode_geotiff(stored, place, settings.compress)
        metadata = self._describe(scene, files)
        if passed_over:
            metadata["passed_over"] = list(passed_over)
        files[METADATA_NAME] = (json.dumps(metadata, indent=1) + "\n").encode()
        self._files |= {f"{scene.name}/{name}": content for name, content in files.items()}
        self._passed_over += passed_over
        if self._writer.previews is not None:
            shown = [convert(images[band], "uint8") for band in RGB_BANDS]
            self._pictures[scene.name] = stretch(np.stack(shown))

    def _describe(self, scene: Scene, files: dict[str, bytes]) -> dict[str, Any]:
        """Return the metadata of a scene: no time of writing, so that a repeat gives the same."""
        settings, grid = self._writer.settings, self.place.grid
        return {
            **self._writer.origin,
            "scene": scene.name,
            "time": scene.start.isoformat(),
            "cloud_percent": scene.cloud_percent,
            "clear_fraction": scene.clear_fraction,
            "valid_fraction": scene.valid_fraction,
            "processing_baseline": scene.baseline,
            "latitude": round(self.place.latitude, 6),
            "longitude": round(self.place.longitude, 6),
            "crs": f"EPSG:{grid.epsg}",
            "transform": [10, 0, grid.left, 0, -10, grid.top],
            "unit": "255 * reflectance" if settings.dtype == "uint8" else "10000 * reflectance",
            "bands": {band: {"resolution_m": RESOLUTION_M[band]} for band in settings.bands},
            "files": {
                name: {"bytes": len(content), "sha256": _sha256(content)}
                for name, content in files.items()
            },
            "properties": scene.properties,
        }

    def finish(self) -> Record:
        """Write the place, rename its folder to the final name, and return its record.

        Raises:
            UserError: The files cannot be written.
        """
        folder = self._writer.staging / self.place.name
        target = self._writer.root / self.place.name
        scenes = sorted({name.partition("/")[0] for name in self._files})
        try:
            if self._writer.previews is not None:
                self._write_preview(self._writer.previews)
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
            for scene in scenes:
                make_folder(folder / scene)
            for name, content in self._files.items():
                _write_synced(folder / name, content)
            for path in (*(folder / scene for scene in scenes), folder):
                flush_entry(path)
            if os.path.lexists(target):  # a killed run finished it, but did not note it
                target.rename(folder.with_name(f"{self.place.name}.old"))  # for ``clear``
            folder.rename(target)
            flush_entry(self._writer.root)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"cannot write {os_error_sentence(error, target)}, and run the same command again "
                "to resume"
            ) from error
        return Record(
            self.place.number,
            "done",
            scenes=tuple(scenes),
            num_bytes=sum(map(len, self._files.values())),
            sha256=place_hash({name: _sha256(content) for name, content in self._files.items()}),
            passed_over=tuple(self._passed_over),
        )

    def _write_preview(self, folder: Path) -> None:
        """Write 000123.png: the dates of a place next to each other, oldest first."""
        dates = [self._pictures[name] for name in sorted(self._pictures)]
        strip = np.concatenate(dates, axis=2).transpose(1, 2, 0)
        with written_whole(folder / f"{self.place.name}.png") as partial:
            Image.fromarray(np.ascontiguousarray(strip)).save(partial, "png")


def convert(image: Array, dtype: str) -> Array:
    """Store digital numbers as they are, or as 255 times reflectance, truncated as the archives.

    Args:
        image: Digital numbers, uint16, shape (H, W).
        dtype: "uint16" keeps them, "uint8" converts them.
    """
    if dtype == "uint16":
        return image
    return np.asarray(np.minimum(image, 10_000).astype(np.uint32) * 255 // 10_000, dtype=np.uint8)


def place_hash(hashes: dict[str, str]) -> str:
    """Hash a place from the hashes of its files, by their names within it."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return _sha256(lines.encode())


def stretch(image: Array) -> Array:
    """Stretch red, green and blue, (3, H, W), by the published quantiles to 0..255."""
    low, high = (np.array([RGB_QUANTILES[band][end] for band in RGB_BANDS]) for end in (0, 1))
    scaled = (image - low[:, None, None]) / (high - low)[:, None, None]
    return np.asarray((np.clip(scaled, 0, 1) * 255).astype(np.uint8))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    flush_entry(path)
