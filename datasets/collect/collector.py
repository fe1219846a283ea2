"""Search, read and write the scenes of places; what the threads of a fetch do."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from datasets.collect.journal import Outcome, Record
from datasets.collect.plan import Plan
from datasets.collect.rate_limit import Requester
from datasets.collect.scenes import (
    Array,
    Candidates,
    Lack,
    Missing,
    Place,
    Refused,
    Scene,
    Source,
    choose,
)
from datasets.collect.writer import Draft, PlaceWriter
from utils.retry import Transient

Answer = TypeVar("Answer")
_TRIES = 4  # of a request that fails alone
_DARK = 500  # digital numbers: a pixel whose other bands all reflect more than 0.05 is not dark


class Collector:
    """Searches and collects places, in many threads at once.

    Raises what ``Source`` raises but ``Refused``, and ``Stopped`` when the run ends.

    Args:
        plan: Plan of the collection.
        source: Source of scenes.
        requester: Sends all requests.
        writer: Writes places.
    """

    def __init__(
        self, plan: Plan, source: Source, requester: Requester, writer: PlaceWriter
    ) -> None:
        self.places_per_search = source.places_per_search
        self.requester = requester
        self._plan = plan
        self._source = source
        self._writer = writer

    def search(self, numbers: Sequence[int]) -> list[tuple[Place, Candidates | Lack]]:
        """Find and rank the scenes of some places by one request.

        What fails for several places (too much memory, say) is requested again by halves: no place
        is lost because of the others in its search, and no size is repeated indefinitely.
        """
        places = [self._plan.place(number) for number in numbers]
        request = partial(self._source.search, places)
        tries = 1 if len(places) > 1 else _TRIES
        try:
            found = until_certain(self.requester, self._source, request, tries)
        except Refused as error:
            if len(places) == 1:
                return [(places[0], Lack("refused", str(error)))]
            half = len(places) // 2
            return self.search(numbers[:half]) + self.search(numbers[half:])
        return [
            (place, choose(place, scenes, self._plan.settings))
            for place, scenes in zip(places, found, strict=True)
        ]

    def collect(self, place: Place, candidates: Candidates) -> Record:
        """Read a scene for each window of a place and write it, or return why there is none.

        Args:
            place: Place to collect.
            candidates: Scenes per window, the best first.
        """
        draft = Draft(self._writer, place)
        taken: set[object] = set()
        for scenes in candidates:
            fresh = [scene for scene in scenes if scene.acquisition not in taken]
            found = self._first_good(place, fresh)
            if isinstance(found, Record):
                return found
            draft.add(*found)
            taken.add(found[0].acquisition)
        return draft.finish()

    def _first_good(
        self, place: Place, scenes: Sequence[Scene]
    ) -> tuple[Scene, dict[str, Array], list[str]] | Record:
        """Read the first scene that can be read and has data everywhere; note those before it."""
        passed_over: list[str] = []
        outcome: Outcome = "cloudy"
        reason = "the only clear scene of a window is taken by another window"
        for scene in scenes:
            try:
                request = partial(self._source.read, scene, place.grid)
                images = until_certain(self.requester, self._source, request)
            except Refused as error:
                outcome, reason = "refused", f"{scene.name}: {error}"
                passed_over.append(reason)
                continue
            if not has_gaps(images, scene.is_clamped):
                return scene, images, passed_over
            passed_over.append(f"{scene.name}: has pixels without data")
            if outcome != "refused":  # which --retry failed requests again
                reason = passed_over[-1]
        return Record(place.number, outcome, reason, passed_over=tuple(passed_over))


def has_gaps(images: dict[str, Array], is_clamped: bool) -> bool:
    """Return whether any band has a pixel without data.

    Such a pixel is 0, and one with data is 1 at least (ESA, Sentinel-2 Products Specification
    Document: NODATA is 0). In a clamped scene a 0 counts as dark if the pixel is dark in another
    band, too, but not if it is 0 in all bands of a resolution.

    Args:
        images: Digital numbers per band, square, of resolutions that divide each other.
        is_clamped: See ``Scene``.
    """
    is_empty = {band: image == 0 for band, image in images.items()}
    if not any(mask.any() for mask in is_empty.values()):
        return False
    sizes = {mask.shape for mask in is_empty.values()}
    by_size = ([mask for mask in is_empty.values() if mask.shape == size] for size in sizes)
    if not is_clamped or any(np.all(masks, axis=0).any() for masks in by_size):
        return True
    side = max(map(len, images.values()))
    darkest = np.full((side, side), np.iinfo(np.uint16).max, np.uint16)
    for image in images.values():
        factor = side // len(image)
        full = image.repeat(factor, 0).repeat(factor, 1)
        darkest = np.where(full == 0, darkest, np.minimum(full, darkest))
    for mask in is_empty.values():
        factor = side // len(mask)
        blocks = darkest.reshape(len(mask), factor, len(mask), factor).min((1, 3))
        if (mask & (blocks >= _DARK)).any():
            return True
    return False


def until_certain(
    requester: Requester, source: Source, request: Callable[[], Answer], tries: int = _TRIES
) -> Answer:
    """Return the answer to a request, or find that it alone fails.

    What may have requested too much, or misses something, is tried a few times with growing pauses.
    In between the source has to answer its ``check``, which waits for the end of an outage.

    Args:
        requester: Sends the requests.
        source: Source of scenes.
        request: Request that is sent.
        tries: How often at most.

    Raises:
        Refused: It failed each time.
        Transient: The service does not answer other requests either.
    """
    for repeats in range(tries):
        try:
            return requester.call(request)
        except (Missing, Transient) as error:
            if isinstance(error, Transient) and not error.is_too_large:
                raise
            reason = str(error)
        if repeats + 1 < tries:
            requester.back_off(repeats)
            requester.call(source.check)
    raise Refused(reason)
