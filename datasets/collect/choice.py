"""Which scenes of a place are tried, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from datasets.collect.scenes import Place, Scene, Window
from datasets.collect.settings import Settings

# Fractions are means over pixels in floating point.
_ALL = 1 - 1e-6


@dataclass(frozen=True)
class Candidates:
    """Scenes that may be taken, the best first, for each window of a place.

    Attributes:
        windows: As the place has them; never an empty one.
    """

    windows: tuple[tuple[Scene, ...], ...]


@dataclass(frozen=True)
class Lack:
    """Why a place cannot be collected."""

    outcome: Literal["no_scene", "cloudy", "refused"]
    reason: str


def choose(place: Place, scenes: Sequence[Scene], settings: Settings) -> Candidates | Lack:
    """Rank the scenes of each window; the place is lost if one of them has none.

    Args:
        place: With its windows.
        scenes: All that a source found, of any window.
        settings: ``scene_choice`` and ``clear_fraction``. A patch of which nobody knows how clear
            it is passes, for its scene has few clouds.
    """
    windows = []
    for window in place.windows:
        found = [scene for scene in scenes if _is_in(scene, window)]
        if not found:
            return Lack("no_scene", f"none from {window.start} to {window.end}")
        good = [scene for scene in found if _is_good(scene, settings)]
        if not good:
            return Lack("cloudy", f"none of {len(found)} from {window.start} to {window.end}")
        windows.append(tuple(sorted(good, key=lambda scene: _rank(scene, window, settings))))
    return Candidates(tuple(windows))


def acquisition(scene: Scene) -> datetime:
    """Tell scenes apart: granules of one pass share the time at which it was sensed."""
    head = scene.name.partition("_")[0]
    try:
        return datetime.strptime(head, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return scene.start


def _is_in(scene: Scene, window: Window) -> bool:
    return window.start <= scene.start.astimezone(UTC).date() < window.end


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
