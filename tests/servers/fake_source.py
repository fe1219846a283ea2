"""A source of scenes without a network: straight from the made-up archive."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import GRID_M, Array, PatchGrid, Place, Scene
from datasets.collect.settings import Settings
from datasets.miniature.services.catalogue import Catalogue, Granule, pixel_centres


class FakeSource:
    """A ``Source`` whose callbacks are called before every answer, and may raise."""

    places_per_search = 5

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue | None = None,
        fault: Callable[[str], None] = lambda kind: None,
        *,
        on_search: Callable[[Sequence[Place]], None] = lambda places: None,
        on_read: Callable[[Scene, PatchGrid], None] = lambda scene, grid: None,
    ) -> None:
        self.settings = settings
        self.catalogue = catalogue or Catalogue()
        self.fault = fault
        self.on_search = on_search
        self.on_read = on_read
        self.searched: Counter[int] = Counter()  # by number of the place
        self.read_scenes: Counter[tuple[int, int, str]] = Counter()  # by corner and scene
        self._lock = threading.Lock()

    def check(self) -> None:
        self.fault("check")

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        with self._lock:
            self.searched.update(place.number for place in places)
        self.fault("search")
        self.on_search(places)
        return [self._scenes(place) for place in places]

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        with self._lock:
            self.read_scenes[grid.left, grid.top, scene.name] += 1
        self.fault("read")
        self.on_read(scene, grid)
        granule = self.catalogue.find(scene.name)
        assert granule is not None
        return {
            band: expected_pixels(self.catalogue, granule, grid, band)
            for band in self.settings.bands
        }

    def describe(self) -> dict[str, str]:
        return {"source": "fake", "collection": "made up"}

    def facts(self) -> dict[str, str]:
        return {}

    def _scenes(self, place: Place) -> list[Scene]:
        grid = place.grid
        cells = grid.size_px * 10 // GRID_M
        x, y = pixel_centres(grid.left, grid.top, cells, cells, GRID_M)
        middle_x, middle_y = grid.left + 5 * grid.size_px, grid.top - 5 * grid.size_px
        centre = (middle_x - 1, middle_y - 1, middle_x + 1, middle_y + 1)
        found = (
            self.catalogue.granules(grid.epsg, centre, window.start, window.end)
            for window in place.windows
        )
        scenes = []
        for granule in dict.fromkeys(chain(*found)):  # windows may overlap
            properties = self.catalogue.properties(granule)
            if properties["CLOUDY_PIXEL_PERCENTAGE"] < self.settings.cloud_pct:
                scenes.append(self._scene(granule, properties, x, y))
        return scenes

    def _scene(self, granule: Granule, properties: dict[str, Any], x: Array, y: Array) -> Scene:
        """Measure the cells at some coordinates."""
        is_valid = self.catalogue.is_valid(granule, x, y)
        is_clear = is_valid & ~self.catalogue.is_cloud(granule, x, y)
        is_known = self.catalogue.has_score(granule) and is_valid.mean() >= 0.5
        return Scene(
            name=granule.name,
            start=granule.start,
            cloud_percent=properties["CLOUDY_PIXEL_PERCENTAGE"],
            clear_fraction=round(float(is_clear.sum() / is_valid.sum()), 6) if is_known else None,
            valid_fraction=round(float(is_valid.mean()), 6),
            baseline=properties["PROCESSING_BASELINE"],
            is_clamped=properties["PROCESSING_BASELINE"] >= "04.00",
        )


def expected_pixels(catalogue: Catalogue, granule: Granule, grid: PatchGrid, band: str) -> Array:
    """Return a band of a patch, at its own resolution."""
    size = RESOLUTION_M[band]
    side = 10 * grid.size_px // size
    x, y = pixel_centres(grid.left, grid.top, side, side, size)
    return catalogue.values(granule, band, x, y)
