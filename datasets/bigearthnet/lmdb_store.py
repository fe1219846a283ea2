"""Patches of BigEarthNet in one LMDB of safetensors, as BigEarthNet's own rico-hdl writes it.

A key is the name of a patch, its value the bytes of a safetensors file that holds a uint16 array
of native size for each band, named B01, B02 and so on (github.com/kai-tub/rico-hdl). Nothing in it
is a pickle, unlike in the original's LMDBs.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from datasets.bigearthnet.facts import FILE_NAMES, check_band
from datasets.bigearthnet.lmdb_pages import check_pages
from utils.errors import UserError

DATA_FILE = "data.mdb"  # LMDB's own name
_DTYPE_NAMES = {"U16": "uint16"}
_MAX_PATCH_BYTES = 2**20  # all bands have 150,000
# Environments by the inode of their folder, as in lmdb, with their process and state of the file: a
# process must not open an LMDB twice, and a forked process must open its own.
_checked: set[tuple[int, int]] = set()  # inode and time of change, also of a parent process
_opened: dict[tuple[int, int], tuple[tuple[int, int, int], lmdb.Environment]] = {}


@dataclass(frozen=True)
class PatchLmdb:
    """Patches in the LMDB of folder ``root``; each process with a copy opens the file once."""

    root: Path

    def names(self) -> set[str]:
        """List the keys.

        Raises:
            UserError: The LMDB is damaged.
        """
        try:
            with _environment(self.root).begin() as transaction:
                keys = transaction.cursor().iternext(keys=True, values=False)
                return {key.decode(errors="replace") for key in keys}
        except lmdb.Error as error:
            raise UserError(f"{self.root} holds a damaged LMDB: write it again") from error

    def read(self, name: str, bands: Sequence[str]) -> list[np.ndarray]:
        """Read some bands of a patch; arguments as in ``PatchFolder.read``.

        Raises:
            UserError: The patch is missing or damaged, or lacks a band.
        """
        where = f"{name} in {self.root}"
        tensors = self.read_tensors(name)
        planes = []
        for band in bands:
            key = FILE_NAMES[band]
            if key not in tensors:
                raise UserError(f"{where} has no band {key}, only {' '.join(sorted(tensors))}")
            dtype, shape = tensors[key]["dtype"], tuple(tensors[key]["shape"])
            check_band(band, _DTYPE_NAMES.get(dtype, dtype), shape, f"{key} of {where}")
            planes.append(np.frombuffer(tensors[key]["data"], np.uint16).reshape(shape))
        return planes

    def read_tensors(self, name: str) -> dict[str, dict[str, Any]]:
        """Return type ("dtype"), shape and bytes ("data") of every band of a patch, by its key.

        Raises:
            UserError: The patch is missing or damaged.
        """
        try:
            with _environment(self.root).begin(buffers=True) as transaction:
                value = transaction.get(name.encode(), b"")
                if len(value) > _MAX_PATCH_BYTES:
                    raise ValueError(f"{len(value):,} bytes")
                return dict(deserialize(bytes(value)))
        except (lmdb.Error, SafetensorError, ValueError) as error:
            raise UserError(
                f"{name} in {self.root} is missing or damaged: write the LMDB again"
            ) from error

    def fingerprint(self, names: Sequence[str], bands: Sequence[str]) -> str:
        """Identify some patches by their names, and by path, size and time of change of the LMDB.

        Arguments as in ``PatchFolder.fingerprint``.
        """
        state = (self.root / DATA_FILE).stat()
        what = (str(self.root.resolve()), state.st_size, state.st_mtime_ns, *bands, *names)
        return hashlib.sha256(ascii(what).encode()).hexdigest()


def encode_patch(bands: Mapping[str, np.ndarray]) -> bytes:
    """Encode a patch as the value of its key; bands have names such as B2 and B8A."""
    return save({FILE_NAMES[band]: np.ascontiguousarray(plane) for band, plane in bands.items()})


def _environment(root: Path) -> lmdb.Environment:
    """Open the present file for reading, once per process."""
    path = root / DATA_FILE
    try:
        state, folder = path.stat(), root.stat()
        inode = folder.st_dev, folder.st_ino
        owner = os.getpid(), state.st_ino, state.st_mtime_ns
        known, environment = _opened.get(inode, (None, None))
        if environment is not None and known == owner:
            return environment
        if environment is not None:
            environment.close()  # of a replaced file, or inherited: the parent's stays open
        if owner[1:] not in _checked:
            check_pages(path)
            _checked.add(owner[1:])
        # Patches are read in random order, so that readahead would only cost time.
        environment = lmdb.open(str(root), readonly=True, lock=False, readahead=False, create=False)
    except (lmdb.Error, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole LMDB ({error}): write it again") from error
    _opened[inode] = owner, environment
    return environment
