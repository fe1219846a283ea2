"""Windows of both dates of OSCD's cities, for an encoder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine

from datasets.geotiff.footprints import corners_of
from datasets.geotiff.reader import locate
from datasets.geotiff.writer import encode_geotiff
from datasets.oscd.files import City, find_cities, read_cities
from utils.input_spec import InputTransform
from utils.patch_blocks import PatchBlock
from utils.report import digest_of


class CityWindows:
    """Windows of both dates of OSCD's cities; a ``PatchBlocks`` with a block per date of a city.

    Args:
        data_dir: Folder of OSCD.
        transform: Bands to read, and how to stretch them.
        size: Side S of a window in pixels.
        stride: Pixels between two windows.
    """

    grid = None

    def __init__(self, data_dir: Path, transform: InputTransform, size: int, stride: int) -> None:
        self.data_dir = data_dir
        self.transform = transform
        self.size, self.stride = size, stride
        names = sorted(find_cities(data_dir))
        self._dates = [(name, date) for name in names for date in (1, 2)]
        self.num_patches, self.is_placed = 0, False
        for city in map(self._city, names):
            self.num_patches += 2 * len(list(self._boxes(city)))
            self.is_placed |= all(each is not None for each in _placed(city))
        self.description = (
            f"{self.num_patches:,} windows of {size} px in {len(self._dates) // 2} "
            f"cities of {data_dir}"
        )
        self.digest = digest_of([self.fingerprint()])

    def __len__(self) -> int:
        return len(self._dates)

    def read(self, block: int) -> PatchBlock:
        """Read all windows of a date; see ``PatchBlocks.read``."""
        name, date = self._dates[block]
        city, size = self._city(name), self.size
        image = city.image_1 if date == 1 else city.image_2
        boxes = np.array(list(self._boxes(city))).reshape(-1, 2)
        pictures = [image[:, y : y + size, x : x + size] for x, y in boxes]
        sides = np.full_like(boxes, size)
        return PatchBlock(
            np.stack(pictures) if pictures else np.empty((0, len(image), size, size), np.uint8),
            [f"{name}/{date}/{y}/{x}" for x, y in boxes],
            f"{self.data_dir}: {name}",
            [""] * len(boxes),
            corners_of(*_placed(city), np.concatenate([boxes, sides], axis=1)),
            np.empty((len(boxes), 0), np.int64),
        )

    def picture(self, patch: str) -> np.ndarray:
        """Read the window ``CITY/DATE/ROW/COLUMN``, in pixels: uint8, shape (C, S, S)."""
        name, date, y, x = patch.rsplit("/", 3)
        city, row, column, size = self._city(name), int(y), int(x), self.size
        image = city.image_1 if date == "1" else city.image_2
        return image[:, row : row + size, column : column + size]

    def fingerprint(self) -> str:
        """Identify the cities and the division."""
        return repr((str(self.data_dir), self._dates, self.size, self.stride))

    def _city(self, name: str) -> City:
        return read_cities(self.data_dir, [name], self.transform)[0]

    def _boxes(self, city: City) -> Iterator[tuple[int, int]]:
        """Yield first column and row of every window."""
        size, stride = self.size, self.stride
        _, height, width = city.image_1.shape
        for y in range(0, height - size + 1, stride):
            for x in range(0, width - size + 1, stride):
                yield x, y


def _placed(city: City) -> tuple[CRS | None, Affine | None]:
    """Return coordinate system and transform of the pixels, which a small file tells."""
    file = encode_geotiff(np.zeros((1, 1), np.uint8), city.georeference)
    return locate(file, city.name)[:2]
