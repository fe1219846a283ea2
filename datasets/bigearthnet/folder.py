"""Patches of BigEarthNet v1 or v2 as unpacked: a folder per patch with a GeoTIFF per band."""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from datasets.bigearthnet.facts import FILE_NAMES, check_band
from utils.errors import UserError
from utils.progress import progress

# Coordinates are not needed, and reading them would double the time.
_OPTIONS = {"driver": "GTiff", "GEOREF_SOURCES": "NONE"}
_MAX_LABEL_BYTES = 1 << 16  # files of the archive have about 1,000
_NUM_THREADS = 8  # which wait for the disk


@dataclass(frozen=True)
class PatchFolder:
    """Patch folders below a root, and how to read their bands.

    Attributes:
        root: Folder of the patches (v1), or of the scenes that hold them (v2).
        by_scene: Whether patches are in folders of their scenes, as in v2: ``<scene>/<patch>/``.
    """

    root: Path
    by_scene: bool

    @property
    def layout(self) -> str:
        """Path of a band, for messages."""
        return f"{self.root.name}/{'SCENE/' if self.by_scene else ''}PATCH/PATCH_B02.tif"

    def names(self) -> set[str]:
        """List the patches by one scan of folder names."""
        if not self.by_scene:
            return set(os.listdir(self.root))  # noqa: PTH208 - 590,326 names, no Path for each
        names: set[str] = set()
        with os.scandir(self.root) as scenes:
            for scene in scenes:
                if scene.is_dir():
                    names.update(os.listdir(scene.path))  # noqa: PTH208
        return names

    def read(self, name: str, bands: Sequence[str]) -> list[np.ndarray]:
        """Read the bands of a patch, each uint16 DN of its own size, (120, 120) at 10 m."""
        return [self._read_band(self._band_path(name, band), band) for band in bands]

    def read_labels(self, names: Sequence[str]) -> list[list[str]]:
        """Read the label names that each patch of v1 holds."""
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            read = pool.map(self.read_label_names, names)
            total = len(names)
            return list(progress(read, total=total, desc="labels", unit=" patches", leave=False))

    def read_label_names(self, name: str) -> list[str]:
        """Read the label names in the folder of a patch of v1."""
        path = f"{self._folder(name)}/{name}_labels_metadata.json"
        try:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the path is a str
                content = json.loads(file.read(_MAX_LABEL_BYTES))
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing: without it {name} has no labels") from error
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is not readable JSON: replace it") from error
        labels = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{path} holds no list of labels: replace it")
        return labels

    def fingerprint(self, names: Sequence[str], bands: Sequence[str]) -> str:
        """Identify the files of some patches and bands by path, size and time of change."""
        digest = hashlib.sha256(os.fsencode(self.root.resolve()))
        for name in names:
            for band in bands:
                path = self._band_path(name, band)
                try:
                    state = os.stat(path)  # noqa: PTH116 - the path is a str for speed
                except OSError as error:
                    raise UserError(f"{path} is missing: restore it") from error
                digest.update(f"{name} {band} {state.st_size} {state.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _band_path(self, name: str, band: str) -> str:
        return f"{self._folder(name)}/{name}_{FILE_NAMES[band]}.tif"

    def _folder(self, name: str) -> str:
        scene = f"{name.rsplit('_', 2)[0]}/" if self.by_scene else ""
        return f"{self.root}/{scene}{name}"

    def _read_band(self, path: str, band: str) -> np.ndarray:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(path, **_OPTIONS) as file:
                    check_band(band, file.dtypes[0], file.shape, path)  # before it is read
                    return file.read(1)
        except RasterioError as error:
            state = "is not a readable GeoTIFF" if Path(path).exists() else "is missing"
            raise UserError(f"{path} {state}: replace it") from error
