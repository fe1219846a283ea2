"""Finished blocks of an embedding on disk, until the whole file is written."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.backbones import Encoder
from models.features import feature_key
from utils.errors import NOT_AS_WRITTEN, UserError
from utils.files import check_regular, read_file, written_whole
from utils.patch_blocks import PatchBlock, PatchBlocks
from utils.report import write_json

_IDENTITY = "identity.json"


class Part(NamedTuple):
    """Features of the patches of one block.

    Attributes:
        features: float16 or float32, shape (N, D).
        ids: Name of each patch.
        source: File or data set of the patches.
        days: Date of each patch by ISO 8601, "" if unknown.
        corners: Longitude and latitude of the corners, see ``PatchBlock``.
        cells: Row and column in the grid, see ``PatchBlock``.
    """

    features: np.ndarray
    ids: list[str]
    source: str
    days: list[str]
    corners: np.ndarray
    cells: np.ndarray


class Parts:
    """A folder with a file per finished block, which a killed run leaves to the next one.

    Args:
        path: The file that is made of them; the folder is next to it.
        identity: What the features depend on, plain values; a folder of another one is refused.
        num_blocks: Number of all blocks.

    Raises:
        UserError: The folder holds the parts of another embedding, or cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, str], num_blocks: int) -> None:
        self.folder = path.with_name(f"{path.name}.parts")
        self.num_blocks = num_blocks
        file = self.folder / _IDENTITY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = json.loads(read_file(file)) if file.exists() else identity
            changed = [name for name in identity if found.get(name) != identity[name]]
        except (OSError, *NOT_AS_WRITTEN) as error:
            raise UserError(f"{self.folder} is damaged: delete it") from error
        if changed:
            raise UserError(
                f"{self.folder} holds the beginning of an embedding of another {changed[0]}: run "
                "its command again, or delete the folder"
            )
        write_json(file, identity)

    def missing(self) -> list[int]:
        """Return the blocks that are not finished."""
        return [n for n in range(self.num_blocks) if not self._file(n).exists()]

    def write(self, block: int, patches: PatchBlock, features: np.ndarray) -> None:
        """Store the features of a block, completely or not at all.

        Args:
            block: Number of the block.
            patches: Its patches.
            features: Features of the patches, shape (N, D).
        """
        with written_whole(self._file(block)) as partial, partial.open("wb") as file:
            np.savez(
                file,
                features=features,
                ids=np.array(patches.ids, str),
                source=np.array(patches.source),
                days=np.array(patches.days, str),
                corners=patches.corners,
                cells=patches.cells,
            )

    def read(self, block: int) -> Part:
        """Read the features of a finished block.

        Raises:
            UserError: The file is damaged.
        """
        path = self._file(block)
        try:
            check_regular(path)
            with np.load(path, allow_pickle=False) as file:
                part = Part(
                    file["features"],
                    file["ids"].tolist(),
                    str(file["source"]),
                    file["days"].tolist(),
                    file["corners"],
                    file["cells"],
                )
            sizes = {len(each) for each in (part.ids, part.days, part.corners, part.cells)}
            if part.features.ndim != 2 or {len(part.features)} != sizes:
                raise ValueError("other shapes")
            return part
        except (OSError, EOFError, zipfile.BadZipFile, *NOT_AS_WRITTEN) as error:
            raise UserError(f"{path} is damaged: delete it, and run the command again") from error

    def __iter__(self) -> Iterator[Part]:
        return map(self.read, range(self.num_blocks))

    def remove(self) -> None:
        """Delete the folder, when the whole file is written."""
        shutil.rmtree(self.folder)

    def _file(self, block: int) -> Path:
        return self.folder / f"{block:06d}.npz"


def identity_of(
    encoder: Encoder, patches: PatchBlocks, precision: str, dtype: str
) -> dict[str, str]:
    """Return what the features depend on, by name.

    Args:
        encoder: Encoder of the patches.
        patches: What to embed.
        precision: A key of ``PRECISIONS``.
        dtype: Type of the features on disk.
    """
    return {
        "imagery": hashlib.sha256(patches.fingerprint().encode()).hexdigest(),
        "encoder": feature_key(encoder, patches.transform, "", precision),
        "type": dtype,
    }
