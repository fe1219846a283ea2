"""Places, windows and scenes of a collection: what a source offers, and which scenes are tried."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from datasets.collect.settings import Settings

Array = NDArray[Any]
# Granules begin on a lattice of 60 m from the origin of their UTM zone, so that a corner on it fits
# the pixels of all resolutions. In the south the origin has a northing of 10,000,000 m, which is
# not a multiple of 60. (ESA, MTD_TL.xml of the products: tile 32TNM has ULX 499980 and ULY 4700040,
# tile 53HPV 600000 and 6000040, tile 53HMA 399960 and 6100000, the same at 10, 20 and 60 m.)
GRID_M = 60
_ALL = 1 - 1e-6  # fractions are means over pixels in floating point


@dataclass(frozen=True)
class PatchGrid:
    """A square in UTM metres; its upper left corner is on the lattice of ``GRID_M``."""

    epsg: int  # 326xx in the north, 327xx in the south
    left: int  # easting of the upper left corner
    top: int  # northing of the upper left corner
    size_px: int  # side in pixels of 10 m, a multiple of 6

    @property
    def zone(self) -> int:
        """Number of the UTM zone, 1 .. 60."""
        return self.epsg % 100

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Left, bottom, right and top in metres."""
        side = 10 * self.size_px
        return self.left, self.top - side, self.left + side, self.top


@dataclass(frozen=True)
class Window:
    """Days in which a scene is wanted: from ``start`` until before ``end``, in UTC."""

    start: date
    end: date

    def __contains__(self, time: datetime) -> bool:
        return self.start <= time.astimezone(UTC).date() < self.end


@dataclass(frozen=True)
class Place:
    """A place of a plan."""

    number: int  # its position in the plan, and the name of its folder
    latitude: float  # of the patch's centre, in degrees
    longitude: float  # of the same point, in degrees
    grid: PatchGrid  # pixels of the patch in its UTM zone
    windows: tuple[Window, ...]  # one per date that is wanted, the newest first

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.number:06d}"


@dataclass(frozen=True)
class Scene:
    """A granule that a source found over a place."""

    name: str  # Earth Engine's system:index, such as 20200101T101010_20200101T101011_T32UQD
    start: datetime  # when it was sensed, in UTC
    cloud_percent: float  # of the whole granule, 0 .. 100
    clear_fraction: float | None  # of the patch's pixels, 0 .. 1; None if it is not known
    valid_fraction: float  # of the patch's pixels, 0 .. 1: those that have data
    baseline: str  # of the processing, such as 05.09
    properties: dict[str, Any] = field(default_factory=dict)  # plain JSON for ``metadata.json``
    key: Any = None  # what the source needs to read it; not recorded
    # Whether 0 may also stand for a reflectance below 0, because the service subtracted the offset
    # of 1000 in unsigned numbers.
    is_clamped: bool = False

    @property
    def acquisition(self) -> datetime:
        """Time at which it was sensed, which granules of one pass share."""
        try:
            start = datetime.strptime(self.name.partition("_")[0], "%Y%m%dT%H%M%S")
        except ValueError:
            return self.start
        return start.replace(tzinfo=UTC)


Candidates = tuple[tuple[Scene, ...], ...]  # per window of a place, never empty, the best first


@dataclass(frozen=True)
class Lack:
    """Why a place cannot be collected."""

    outcome: Literal["no_scene", "cloudy", "refused"]  # as the journal records it
    reason: str  # for a person


class Refused(Exception):
    """The service will never answer this request with a result: take another scene or place."""


class Missing(Refused):
    """Something does not exist or is not accessible; believed only if it is repeated."""


class ComeBack(Exception):
    """Nothing works at present (no answer, an exhausted quota): stop, and resume later."""


class Source(Protocol):
    """Where scenes come from. All methods may run in many threads at once.

    A request has three outcomes: a value; ``Transient`` (``utils.retry``), after which it is
    repeated; or an end. The end of this request is ``Refused``, that of the run is ``ComeBack``, or
    ``UserError`` if no request can ever work (credentials, permission). Nothing else is raised.
    """

    places_per_search: int  # most places that ``search`` takes

    def check(self) -> None:
        """Request the collection itself, the smallest request: whether anything can work now.

        Raises ``UserError`` if the collection does not exist.
        """

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        """Find, by one request, the scenes of each place in any of its windows, below --cloud_pct.

        Scenes of other UTM zones are left out; those with ``valid_fraction`` below 1 may be there.
        """

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        """Read, by one request, the bands of a patch as they were sensed.

        Args:
            scene: Scene that a search found.
            grid: Where the patch is.

        Returns:
            Per band digital numbers (10,000 times reflectance, without offset), uint16, square:
            ``size_px`` pixels of 10 m, or 1/2 or 1/6 as many. No data is 0. Names, type and shape
            have been checked, the values have not.
        """

    def describe(self) -> dict[str, str]:
        """Return collection, source and version of the client, for ``metadata.json``."""

    def facts(self) -> dict[str, str]:
        """Return what was seen in the answers so far that users may report, for a probe."""


def choose(place: Place, scenes: Sequence[Scene], settings: Settings) -> Candidates | Lack:
    """Select the scenes of each window of a place that may be taken, and sort them.

    Args:
        place: Place with its windows.
        scenes: All that a source found, in any order.
        settings: Limits of clouds, and the preferred scene.
    """
    windows = []
    for window in place.windows:
        found = [scene for scene in scenes if scene.start in window]
        if not found:
            return Lack("no_scene", f"none from {window.start} to {window.end}")
        good = [scene for scene in found if _is_good(scene, settings)]
        if not good:
            return Lack("cloudy", f"none of {len(found)} from {window.start} to {window.end}")
        windows.append(tuple(sorted(good, key=lambda scene: _rank(scene, window, settings))))
    return tuple(windows)


def _is_good(scene: Scene, settings: Settings) -> bool:
    is_clear = scene.clear_fraction is None or scene.clear_fraction >= settings.clear_fraction
    return is_clear and scene.valid_fraction >= _ALL


def _rank(scene: Scene, window: Window, settings: Settings) -> tuple[float, float, str]:
    """Return what sorts the best first; the name at the end makes the order complete."""
    middle = datetime.combine(window.start, datetime.min.time(), UTC)
    middle += timedelta(days=(window.end - window.start).days / 2)
    away_s = abs((scene.start - middle).total_seconds())
    if settings.scene_choice == "newest":
        return -scene.start.timestamp(), 0, scene.name
    if settings.scene_choice == "nearest":
        return away_s, 0, scene.name
    known = scene.clear_fraction
    clear = known if known is not None else 1 - scene.cloud_percent / 100
    return -round(clear, 6), away_s, scene.name
