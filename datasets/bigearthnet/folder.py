"""Patches of BigEarthNet v1 or v2 as unpacked: a folder per patch with a GeoTIFF per band."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.bigearthnet.facts import FILE_NAMES, check_band
from datasets.geotiff.reader import one_band, read_geotiff
from utils.errors import NOT_AS_WRITTEN, UserError
from utils.files import read_file

_MAX_LABEL_BYTES = 1 << 16  # files of the archive have about 1,000


@dataclass(frozen=True)
class PatchFolder:
    """Patch folders below ``root``, or, ``by_scene`` as in v2, ``<scene>/<patch>/`` below it."""

    root: Path
    by_scene: bool

    def names(self) -> set[str]:
        """List the patches by one scan of folder names."""
        with os.scandir(self.root) as entries:  # 590,326 of v1: no Path for each
            if not self.by_scene:
                return {entry.name for entry in entries}
            scenes = [entry.path for entry in entries if entry.is_dir()]
        return {name for scene in scenes for name in os.listdir(scene)}  # noqa: PTH208

    def read(self, name: str, bands: Sequence[str]) -> list[np.ndarray]:
        """Read some bands of a patch.

        Args:
            name: Name of the patch.
            bands: Names of the bands, such as B2.

        Returns:
            uint16 DN of each band in its own size: (120, 120) at 10 m, (60, 60) at 20 m, (20, 20)
            at 60 m.
        """
        return [_read_band(self.path(name, f"{FILE_NAMES[band]}.tif"), band) for band in bands]

    def band_bytes(self, name: str, band: str) -> bytes:
        """Return the content of the file of a band.

        Args:
            name: Name of the patch.
            band: Name of the band, such as B2.
        """
        return read_file(self.path(name, f"{FILE_NAMES[band]}.tif"))

    def read_labels(self, name: str) -> list[str]:
        """Read the label names in the folder of a patch of v1.

        Raises:
            UserError: The file is missing or holds no list of labels.
        """
        path = self.path(name, "labels_metadata.json")
        try:
            labels: list[str] = json.loads(read_file(path, _MAX_LABEL_BYTES))["labels"]
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise TypeError("labels are a list of names")
        except (OSError, *NOT_AS_WRITTEN) as error:
            raise UserError(f"{path} is missing or holds no list of labels: replace it") from error
        return labels

    def fingerprint(self, names: Sequence[str], bands: Sequence[str]) -> str:
        """Identify the files of some patches by path, size and time of change.

        Args:
            names: Names of the patches.
            bands: Names of the bands.

        Returns:
            64 hexadecimal digits.

        Raises:
            UserError: A file is missing.
        """
        digest = hashlib.sha256(os.fsencode(self.root.resolve()))
        for name in names:
            for band in bands:
                path = self.path(name, f"{FILE_NAMES[band]}.tif")
                try:
                    state = os.stat(path)  # noqa: PTH116 - the path is a str for speed
                except OSError as error:
                    raise UserError(f"{path} is missing: restore it") from error
                digest.update(f"{name} {band} {state.st_size} {state.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def path(self, name: str, suffix: str) -> str:
        """Return the path of a file of a patch.

        Args:
            name: Name of the patch.
            suffix: End of the file name, such as "B02.tif".
        """
        scene = f"{name.rsplit('_', 2)[0]}/" if self.by_scene else ""
        return f"{self.root}/{scene}{name}/{name}_{suffix}"


def _read_band(path: str, band: str) -> np.ndarray:
    def check(count: int, dtype: str, shape: tuple[int, int]) -> None:
        one_band(path, count, dtype)
        check_band(band, dtype, shape, path)

    try:
        return read_geotiff(read_file(path), path, check)[0]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or not a readable GeoTIFF: replace it") from error
