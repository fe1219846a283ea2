"""Files of the miniature Earth: georeference, GeoTIFF, and a place of SeCo or of EuroSAT."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.bands import EUROSAT_BANDS, RGB_BANDS
from datasets.geotiff.writer import encode_geotiff, utm_tags
from datasets.miniature.canvas import Array, Rng
from datasets.miniature.covers import COVER_NAMES, draw_place
from datasets.miniature.render import SENSOR_RESOLUTION_M, level_1c, observe
from datasets.miniature.surfaces import draw_weather


@dataclass(frozen=True)
class Grid:
    """A corner in UTM, ``left`` and ``top`` in metres, at which pixels of 60 m begin.

    Those of Sentinel-2 begin at whole multiples of 60 m from the equator (ESA, MTD_TL.xml of tiles
    32TNM and 53HPV).
    """

    latitude: float  # of the corner, in degrees
    zone: int  # number of the UTM zone, 1..60
    left: int
    top: int

    @classmethod
    def at(cls, latitude: float, longitude: float) -> "Grid":
        """Place the corner near a coordinate; a sphere is exact enough for an invented place.

        Args:
            latitude: Latitude in degrees, -80..80.
            longitude: Longitude in degrees, -180..180.
        """
        zone = int((longitude + 180) // 6) + 1
        offset = (longitude - (6 * zone - 183)) * np.cos(np.radians(latitude))
        left, top = 500_000 + 111_300 * offset, 110_900 * latitude
        equator = 0 if latitude >= 0 else 10_000_000
        return cls(latitude, zone, int(left // 60) * 60, equator + int(top // 60) * 60)

    @property
    def epsg(self) -> int:
        """Code of the UTM zone."""
        return (32600 if self.latitude >= 0 else 32700) + self.zone

    @property
    def tile(self) -> str:
        """Name of the MGRS tile, for example 10SFG."""
        band = "CDEFGHJKLMNPQRSTUVWX"[int((self.latitude + 80) // 8)]
        columns = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(self.zone - 1) % 3]
        rows = "ABCDEFGHJKLMNPQRSTUV"
        row = rows[(self.top // 100_000 + (0 if self.zone % 2 else 5)) % 20]
        return f"{self.zone:02d}{band}{columns[self.left // 100_000 - 1]}{row}"


def write_geotiff(path: Path, image: Array, grid: Grid, resolution_m: int = 10) -> None:
    """Write an image, losslessly compressed.

    Args:
        path: File to write.
        image: Shape (H, W) or (C, H, W).
        grid: Upper left corner.
        resolution_m: Side of a pixel in metres.
    """
    place = utm_tags(grid.epsg, grid.left, grid.top, resolution_m)
    path.write_bytes(encode_geotiff(image, place))


def write_native(path: Path, image: Array, grid: Grid, band: str, size: int) -> None:
    """Write a band of a place of ``size`` pixels of 10 m: smaller than the canvas it was drawn on.

    Args:
        path: File to write.
        image: Pixels of the band's resolution, from the corner of the grid on.
        grid: Upper left corner.
        band: Name in ``SENSOR_BANDS``.
        size: Side in pixels of 10 m; the file has as many as cover them.
    """
    resolution_m = SENSOR_RESOLUTION_M[band]
    side = -(-size * 10 // resolution_m)
    write_geotiff(path, image[:side, :side], grid, resolution_m)


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
    """Write ``<number>/<scene>/<band>.tif`` and ``metadata.json`` of all dates of a place.

    Args:
        root: Folder of the data set.
        number: Number of the place, which names its folder.
        seed: Seed of the world.
        num_dates: Dates per place, one per season.
        size: Side of a patch in pixels of 10 m.
        bands: Names of the bands to write.
        previews: Whether to write brightened RGB previews, as the 100K archive has.
    """
    rng = np.random.default_rng([seed, 1, number])
    place = draw_place(rng, str(rng.choice(COVER_NAMES)), size_px=size)
    longitude = float(rng.uniform(-120, 140))
    grid = Grid.at(place.climate.latitude, longitude)
    # The downloader steps back by 84 days from a random day and takes a scene of the next 15.
    newest = datetime(2021, 2, 1, tzinfo=UTC) - timedelta(days=int(rng.integers(365)))
    for step in range(num_dates):
        day = newest - timedelta(days=84 * step - int(rng.integers(15)))
        start = day + timedelta(hours=10.5 - longitude / 15, seconds=int(rng.integers(1200)))
        end = start + timedelta(seconds=1)
        scene = f"{start:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}_T{grid.tile}"
        weather = draw_weather(rng, grid.latitude, start)
        wanted = dict.fromkeys((*bands, *(RGB_BANDS if previews else ())))
        images = observe(rng, place, weather, tuple(wanted))
        folder = root / f"{number:06d}" / scene
        folder.mkdir(parents=True)
        for band in bands:
            stored = np.floor(np.clip(to_dn(images[band]) / 10_000, 0, 1) * 255).astype(np.uint8)
            write_native(folder / f"{band}.tif", stored, grid, band, size)
        metadata = _scene_properties(start, grid.tile, weather.sun_elevation, rng)
        (folder / "metadata.json").write_text(json.dumps(metadata))
        if previews:
            write_geotiff(folder.with_suffix(".tif"), _picture(images, 0.3, size), grid)


def to_dn(reflectance: Array) -> Array:
    """Convert reflectance to digital numbers, reflectance times 10,000: uint16."""
    return np.asarray(np.clip(np.round(reflectance * 10_000), 0, 65_535).astype(np.uint16))


def _picture(images: dict[str, Array], white: float, size: int) -> Array:
    """Return red, green, blue, uint8, (3, size, size): reflectance 0..``white`` becomes 0..255."""
    stack = np.stack([images[band] for band in RGB_BANDS])[:, :size, :size]
    return np.asarray(np.clip(stack / white * 255, 0, 255).astype(np.uint8))


def _scene_properties(
    start: datetime, tile: str, sun_elevation: float, rng: Rng
) -> dict[str, str | int | float]:
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

    Args:
        root: Folder of the data set; that of the class must exist.
        name: Name of the class, the cover that dominates the place.
        number: Number of the image in its class.
        seed: Seed of the world.
        size: Side of the image in pixels.
        all_bands: Whether to write a .tif of 13 bands instead of a .jpg.
    """
    rng = np.random.default_rng([seed, 2, COVER_NAMES.index(name), number])
    place = draw_place(rng, name, size_px=size)
    day = datetime(2017, 1, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(730)))
    weather = level_1c(draw_weather(rng, place.climate.latitude, day))
    # Each band draws its noise in turn: red, green and blue first, so that both files see the same.
    bands = dict.fromkeys(RGB_BANDS + (EUROSAT_BANDS if all_bands else ()))
    images = observe(rng, place, weather, tuple(bands))
    path = root / name / f"{name}_{number}.jpg"
    if all_bands:
        stack = np.stack([repeated_to_10_m(to_dn(images[b]), b, size) for b in EUROSAT_BANDS])
        grid = Grid.at(place.climate.latitude, float(rng.uniform(-9, 28)))
        write_geotiff(path.with_suffix(".tif"), stack, grid)
        return
    pixels = _picture(images, 0.275, size)  # they reach white at about this reflectance
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path, quality=90)


def repeated_to_10_m(image: Array, band: str, size: int) -> Array:
    """Repeat the pixels of a coarser band on the 10 m grid: pixels of shape (size, size).

    Args:
        image: Pixels of the band, shape (h, w).
        band: Name of the band.
        size: Side of the result in pixels.
    """
    factor = SENSOR_RESOLUTION_M[band] // 10
    return image.repeat(factor, axis=0).repeat(factor, axis=1)[:size, :size]
