"""Patches of BigEarthNet in one LMDB of safetensors, as BigEarthNet's own rico-hdl writes it.

A key is the name of a patch, its value the bytes of a safetensors file that holds a uint16 array
of native size for each band, named B01, B02 and so on (github.com/kai-tub/rico-hdl). Nothing in it
is a pickle, unlike in the original's LMDBs.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from datasets.bigearthnet.facts import FILE_NAMES, check_band
from utils.errors import UserError

DATA_FILE = "data.mdb"  # LMDB's own name
_DTYPE_NAMES = {"U16": "uint16"}


@dataclass(frozen=True)
class PatchLmdb:
    """Patches in an LMDB; each process that holds a copy opens the file once.

    Attributes:
        root: Folder of ``data.mdb``, resolved.
    """

    root: Path

    def names(self) -> set[str]:
        """List the keys."""
        try:
            with self._environment().begin() as transaction:
                keys = transaction.cursor().iternext(keys=True, values=False)
                return {key.decode(errors="replace") for key in keys}
        except lmdb.Error as error:
            raise UserError(f"{self.root} holds a damaged LMDB: write it again") from error

    def read(self, name: str, bands: Sequence[str]) -> list[np.ndarray]:
        """Read the bands of a patch, each uint16 DN of its own size, (120, 120) at 10 m."""
        where = f"{name} in {self.root}"
        try:
            with self._environment().begin(buffers=True) as transaction:
                value = transaction.get(name.encode())
                if value is None:
                    raise UserError(f"{where} is missing: write the LMDB again")
                tensors = dict(deserialize(bytes(value)))
        except (lmdb.Error, SafetensorError) as error:
            raise UserError(f"{where} is damaged: write the LMDB again") from error
        return [_band(tensors, band, where) for band in bands]

    def fingerprint(self, names: Sequence[str], bands: Sequence[str]) -> str:
        """Identify some patches by their names and by path, size and time of the file."""
        state = (self.root / DATA_FILE).stat()
        what = (str(self.root.resolve()), state.st_size, state.st_mtime_ns, *bands, *names)
        return hashlib.sha256(ascii(what).encode()).hexdigest()

    def _environment(self) -> lmdb.Environment:
        """Return the environment of this process for the present file."""
        root = str(self.root)
        try:
            owner = os.getpid(), (self.root / DATA_FILE).stat().st_ino
        except OSError as error:
            raise UserError(f"{root} holds no readable LMDB: write it again") from error
        if root in _opened:
            known, environment = _opened[root]
            if known == owner:
                return environment
            environment.close()  # of a replaced file, or inherited: the parent's stays open
        environment = _open(root)
        _opened[root] = (owner, environment)
        return environment


# Environments by folder, with their process and inode: a process must not open an LMDB twice, and a
# forked process must open its own.
_opened: dict[str, tuple[tuple[int, int], lmdb.Environment]] = {}


def _open(root: str) -> lmdb.Environment:
    """Open an LMDB for reading; a damaged or truncated file is a ``UserError``."""
    try:
        # Patches are read in random order, so that readahead would only cost time.
        environment = lmdb.open(root, readonly=True, lock=False, readahead=False, create=False)
        pages = environment.info()["last_pgno"] + 1
        expected = pages * environment.stat()["psize"]
    except (lmdb.Error, OSError) as error:
        raise UserError(f"{root} holds no readable LMDB: write it again") from error
    size = (Path(root) / DATA_FILE).stat().st_size
    if size < expected:  # reading beyond the end would kill the process
        environment.close()
        raise UserError(
            f"{root}/{DATA_FILE} is truncated, {size:,} of {expected:,} bytes: copy it again"
        )
    return environment


def encode_patch(bands: dict[str, np.ndarray]) -> bytes:
    """Encode a patch as the value of its key; bands have names such as B2 and B8A."""
    return save({FILE_NAMES[band]: np.ascontiguousarray(plane) for band, plane in bands.items()})


def _band(tensors: dict[str, Any], band: str, where: str) -> np.ndarray:
    """Return one band of a decoded value, uint16; a band that does not fit is a ``UserError``."""
    key = FILE_NAMES[band]
    if key not in tensors:
        raise UserError(f"{where} has no band {key}, only {' '.join(sorted(tensors))}")
    found = tensors[key]
    shape = tuple(found["shape"])
    dtype = _DTYPE_NAMES.get(found["dtype"], found["dtype"])
    check_band(band, dtype, shape, f"{key} of {where}")
    return np.frombuffer(found["data"], np.uint16).reshape(shape)
