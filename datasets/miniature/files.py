"""Files of the miniature Earth: georeference, GeoTIFF, and one place of each data set's layout."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin

from datasets.bands import EUROSAT_BANDS
from datasets.miniature.covers import COVER_NAMES, draw_place
from datasets.miniature.render import RESOLUTION_M, draw_weather, observe

Array = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """A corner in UTM, ``left`` and ``top`` in metres, at which pixels of 60 m begin.

    Those of Sentinel-2 begin at whole multiples of 60 m from the equator (ESA, MTD_TL.xml of tiles
    32TNM and 53HPV).
    """

    zone: int
    is_north: bool
    left: int
    top: int

    @classmethod
    def at(cls, latitude: float, longitude: float) -> "Grid":
        """Place the corner near a coordinate; a sphere is exact enough for an invented place."""
        zone = int((longitude + 180) // 6) + 1
        offset = (longitude - (6 * zone - 183)) * np.cos(np.radians(latitude))
        left, top = 500_000 + 111_300 * offset, 110_900 * latitude
        equator = 0 if latitude >= 0 else 10_000_000
        return cls(zone, latitude >= 0, int(left // 60) * 60, equator + int(top // 60) * 60)

    @property
    def crs(self) -> CRS:
        """Coordinate reference system, WGS 84 / UTM."""
        return _crs((32600 if self.is_north else 32700) + self.zone)

    def tile(self, latitude: float) -> str:
        """Return the name of the MGRS tile, for example 10SFG."""
        band = "CDEFGHJKLMNPQRSTUVWX"[int((latitude + 80) // 8)]
        columns = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(self.zone - 1) % 3]
        rows = "ABCDEFGHJKLMNPQRSTUV"
        row = rows[(self.top // 100_000 + (0 if self.zone % 2 else 5)) % 20]
        return f"{self.zone:02d}{band}{columns[self.left // 100_000 - 1]}{row}"


@lru_cache(maxsize=128)
def _crs(code: int) -> CRS:
    """Look up a code once, which costs as much as writing a file."""
    return CRS.from_epsg(code)


def write_geotiff(path: Path, image: Array, grid: Grid, resolution_m: int) -> None:
    """Write an image, losslessly compressed.

    Args:
        path: File to write.
        image: Shape (H, W) or (C, H, W).
        grid: Upper left corner.
        resolution_m: Side of a pixel in metres.
    """
    planes = image if image.ndim == 3 else image[None]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=planes.shape[0],
        height=planes.shape[1],
        width=planes.shape[2],
        dtype=planes.dtype,
        crs=grid.crs,
        transform=from_origin(grid.left, grid.top, resolution_m, resolution_m),
        compress="deflate",
    ) as file:
        file.write(planes)


def write_seco_place(
    root: Path,
    number: int,
    *,
    seed: int,
    num_dates: int,
    size: int,
    bands: tuple[str, ...],
    previews: bool,
) -> None:
    """Write ``<number>/<scene>/<band>.tif`` and ``metadata.json`` of all dates of a place."""
    rng = np.random.default_rng([seed, 1, number])
    place = draw_place(rng, str(rng.choice(COVER_NAMES)), size_px=size)
    latitude, longitude = place.climate.latitude, float(rng.uniform(-120, 140))
    grid = Grid.at(latitude, longitude)
    # The downloader steps back by 84 days from a random day and takes a scene of the next 15.
    newest = datetime(2021, 2, 1, tzinfo=UTC) - timedelta(days=int(rng.integers(365)))
    for step in range(num_dates):
        day = newest - timedelta(days=84 * step - int(rng.integers(15)))
        start = day + timedelta(hours=10.5 - longitude / 15, seconds=int(rng.integers(1200)))
        tile = grid.tile(latitude)
        scene = f"{start:%Y%m%dT%H%M%S}_{start + timedelta(seconds=1):%Y%m%dT%H%M%S}_T{tile}"
        weather = draw_weather(rng, latitude, start)
        wanted = dict.fromkeys((*bands, *(("B4", "B3", "B2") if previews else ())))
        images = observe(rng, place, weather, tuple(wanted))
        folder = root / f"{number:06d}" / scene
        folder.mkdir(parents=True)
        for band in bands:
            resolution_m = RESOLUTION_M[band]
            side = -(-size * 10 // resolution_m)
            stored = np.floor(np.clip(to_dn(images[band]) / 10_000, 0, 1) * 255).astype(np.uint8)
            write_geotiff(folder / f"{band}.tif", stored[:side, :side], grid, resolution_m)
        metadata = _scene_properties(start, tile, weather.sun_elevation, rng)
        (folder / "metadata.json").write_text(json.dumps(metadata))
        if previews:
            write_geotiff(
                folder.with_suffix(".tif"), picture(images, 0.3)[:, :size, :size], grid, 10
            )


def two_digits(band: str) -> str:
    """Spell a band as ESA's files do: B2 is B02, B8A stays."""
    return band if len(band) == 3 else f"B0{band[1:]}"


def to_dn(reflectance: Array) -> Array:
    """Convert reflectance to digital numbers, reflectance times 10,000: uint16."""
    return np.asarray(np.clip(np.round(reflectance * 10_000), 0, 65_535).astype(np.uint16))


def picture(images: dict[str, Array], white: float) -> Array:
    """Stack B4, B3, B2 as uint8, (3, H, W): reflectance 0..``white`` becomes 0..255."""
    stack = np.stack([images[band] for band in ("B4", "B3", "B2")])
    return np.asarray(np.clip(stack / white * 255, 0, 255).astype(np.uint8))


def _scene_properties(
    start: datetime, tile: str, sun_elevation: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Return some of the properties that Earth Engine lists for a scene."""
    craft = "AB"[int(rng.integers(2))]
    orbit = int(rng.integers(1, 144))
    identifier = f"S2{craft}_MSIL2A_{start:%Y%m%dT%H%M%S}_N0213_R{orbit:03d}_T{tile}_{start:%Y%m%d}"
    return {
        "PRODUCT_ID": f"{identifier}T{start + timedelta(hours=3):%H%M%S}",
        "SPACECRAFT_NAME": f"Sentinel-2{craft}",
        "MGRS_TILE": tile,
        "SENSING_ORBIT_NUMBER": orbit,
        "PROCESSING_BASELINE": "02.13",
        "CLOUDY_PIXEL_PERCENTAGE": round(float(rng.uniform(0, 10)), 6),
        "MEAN_SOLAR_ZENITH_ANGLE": round(90 - sun_elevation, 6),
        "system:time_start": int(start.timestamp() * 1000),
    }


def write_eurosat_image(
    root: Path, name: str, number: int, *, seed: int, size: int, all_bands: bool
) -> None:
    """Write ``<name>/<name>_<number>``: a place that one cover dominates, on any day.

    The file is a .jpg, or the 13 bands of the same place and day as a .tif: level-1C digital
    numbers on the 10 m grid (coarse pixels are repeated; the archive interpolates them).
    """
    rng = np.random.default_rng([seed, 2, COVER_NAMES.index(name), number])
    place = draw_place(rng, name, size_px=size)
    day = datetime(2017, 1, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(730)))
    weather = draw_weather(rng, place.climate.latitude, day)
    # EuroSAT's pictures are free of snow, and level 1C: the air is not corrected.
    weather = replace(weather, snow=0.0, haze=weather.haze + 0.03)
    # Each band draws its noise in turn: red, green and blue first, so that both files see the same.
    bands = dict.fromkeys(("B4", "B3", "B2") + (EUROSAT_BANDS if all_bands else ()))
    images = observe(rng, place, weather, tuple(bands))
    path = root / name / f"{name}_{number}.jpg"
    if all_bands:
        stack = np.stack([_on_10_m_grid(to_dn(images[b]), b) for b in EUROSAT_BANDS])
        grid = Grid.at(place.climate.latitude, float(rng.uniform(-9, 28)))
        write_geotiff(path.with_suffix(".tif"), stack[:, :size, :size], grid, 10)
        return
    pixels = picture(images, 0.275)  # they reach white at about this reflectance
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :size, :size].transpose(1, 2, 0)))
    image.save(path, quality=90)


def _on_10_m_grid(image: Array, band: str) -> Array:
    """Repeat the cells of a coarser band."""
    return image.repeat(RESOLUTION_M[band] // 10, 0).repeat(RESOLUTION_M[band] // 10, 1)
