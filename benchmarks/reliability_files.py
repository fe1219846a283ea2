"""Mutated images through every reader, in children that may die of them.

A trial passes if each reader returns pixels, or raises an error of its own kind, within a gigabyte
of memory.
"""

import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.image_seeds import EPSG, LEFT, TOP, image_seeds
from benchmarks.mutations import Rng, damage
from benchmarks.trials import Attempt, Trial, in_children

Damage = Callable[[bytes, Rng], tuple[str, bytes]]


class Case(NamedTuple):
    """A file to damage, and how it is read.

    Attributes:
        path: The file.
        read: Reads it with all that belongs to it.
        ways: Kinds of damage.
    """

    path: Path
    read: Callable[[], Any]
    ways: tuple[Damage, ...] = (damage,)


def images(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Decode a mutated TIFF, JPEG or PNG by every reader of images, for each trial.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Scratch folder.
    """
    seeds, cases = image_seeds(), image_cases(folder)
    whole = list(seeds.values())

    def attempt(number: int) -> Attempt:
        rng, name = np.random.default_rng([15, number]), list(seeds)[number % len(seeds)]
        done, data = damage(seeds[name], rng, whole)
        return f"{number}: {name}, {done}", partial(_read_by_all, cases, data)

    yield from in_children(attempt, start, stop)


def _read_by_all(cases: dict[str, Case], data: bytes) -> str | None:
    failures = (failure_of(name, case, data) for name, case in cases.items())
    return next(filter(None, failures), None)


def failure_of(name: str, case: Case, data: bytes | None) -> str | None:
    """Put a file in its place and read it; return what failed in another way than it may.

    Args:
        name: Name of the reader.
        case: Where the file is, and its reader.
        data: Content of the file; None reads what is there.
    """
    from datasets.collect.scenes import Refused
    from utils.errors import UserError
    from utils.retry import Transient

    if data is not None:
        new = case.path.with_name(".new")
        new.write_bytes(data)
        new.replace(case.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.read()
    except (UserError, Refused, Transient):
        return None
    except OSError as error:
        if data is None and error.filename:  # the script prints a sentence about the path
            return None
        return f"{name}: {traceback.format_exc(limit=-3)[-600:]}"
    except Exception:
        return f"{name}: {traceback.format_exc(limit=-3)[-600:]}"
    return None


def image_cases(folder: Path) -> dict[str, Case]:
    """Return every reader of images, by name.

    Args:
        folder: Scratch folder, in which each has one of its own.
    """
    from datasets.bigearthnet.folder import PatchFolder
    from datasets.seco.folder import read_band
    from datasets.seco.pictures import Pictures

    band, picture = _place(folder / "seco/B4.tif"), _place(folder / "pictures/picture.png")
    patch = _place(folder / "bigearthnet/p/p_B04.tif")
    source = PatchFolder(folder / "bigearthnet", by_scene=False)
    return {
        "SeCo folder": Case(band, partial(read_band, band)),
        "SeCo zip": _seco_zip(folder / "zip"),
        "BigEarthNet": Case(patch, partial(source.read, "p", ["B4"])),
        "OSCD bands": _oscd(folder / "bands", "imgs_2_rect/B04.tif"),
        "OSCD map": _oscd(folder / "map", "cm/city-cm.tif"),
        "OSCD picture of a map": _oscd(folder / "picture", "cm/cm.png"),
        "EuroSAT pictures": _eurosat(folder / "eurosat", "A/1.png"),
        "EuroSAT bands": _eurosat(folder / "eurosat", "A/1.tif"),
        "pictures": Case(picture, lambda: Pictures(picture.parent).read(0)),
        "catalogue": _catalogue(folder / "catalogue"),
    }


def _place(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _seco_zip(folder: Path) -> Case:
    """Read the file as a member of a zip."""
    from datasets.seco.patches import SecoPatches

    file, path = _place(folder / "B4.tif"), folder / "seco.zip"

    def read() -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("0/20200101T101010_0_T0/B4.tif", file.read_bytes())
        SecoPatches(path, ["B4"]).read(0)

    return Case(file, read)


def _oscd(folder: Path, name: str) -> Case:
    """Read a city with the file in one place, and whole files of the seeds' size in the others."""
    from datasets.oscd.facts import OSCD_DATA
    from datasets.oscd.files import read_cities
    from utils.input_spec import InputSpec, input_transform

    seeds, buffer = image_seeds(), BytesIO()
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (120, 60))).save(buffer, "PNG")
    whole = seeds["tiff: uint16 small" if name.startswith("cm/") else "tiff: uint16 none"]
    for date in ("imgs_1_rect", "imgs_2_rect"):
        _place(folder / f"city/{date}/B04.tif", whole)
    if not name.endswith("cm.tif"):  # a picture is preferred
        _place(folder / "city/cm/cm.png", buffer.getvalue())
    transform = input_transform(InputSpec.of_pictures(("R",)), OSCD_DATA, "paper")
    path = folder / "city" / name
    if not path.exists():
        _place(path)
    return Case(path, partial(read_cities, folder, ["city"], transform))


def _eurosat(folder: Path, name: str) -> Case:
    from datasets.eurosat.files import SmallFiles, is_geotiff, read_picture

    path, geotiff = _place(folder / name), is_geotiff(name)
    channels = range(13 if geotiff else 3)
    return Case(path, lambda: read_picture(SmallFiles(folder), name, channels, geotiff=geotiff))


class _Web:
    """A server of one file, which answers requests of ranges."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def ask(self, method: str, url: str, headers: dict[str, str]) -> Any:
        first, last = map(int, headers["Range"].removeprefix("bytes=").split("-"))
        part, size = self.data[first : last + 1], len(self.data)
        place = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{size}"}
        return SimpleNamespace(status_code=206, content=part, headers=place)


def _catalogue(folder: Path) -> Case:
    """Read a window of the file as if it were on the web."""
    from datasets.collect.scenes import PatchGrid, Refused
    from datasets.collect.stac_files import read_window

    path, grid = _place(folder / "scene.tif"), PatchGrid(EPSG, LEFT, TOP, 48)

    def read() -> None:
        web: Any = _Web(path.read_bytes())
        with suppress(Refused):
            read_window(web, "https://a.b/c.tif", grid, 10, "uint16")
        read_window(web, "https://a.b/c.tif", grid, 10, "uint8")

    return Case(path, read)
