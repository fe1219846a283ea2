"""Time a few search and read requests without writing files (``--probe``)."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np

from datasets.collect.collector import has_gaps, until_certain
from datasets.collect.plan import Plan
from datasets.collect.rate_limit import Requester
from datasets.collect.scenes import ComeBack, Lack, Place, Refused, Scene, Source, choose
from utils.errors import UserError
from utils.retry import Transient

Answer = TypeVar("Answer")
_MOST_PLACES = 20  # to search per requested patch


class Probe:
    """Requests for the first places of a plan, one after another, each of them timed.

    Args:
        plan: The plan of the collection.
        source: Source of the scenes.
        requester: Limits and counts the requests.
    """

    def __init__(self, plan: Plan, source: Source, requester: Requester) -> None:
        self._plan = plan
        self._source = source
        self._requester = requester
        self._seconds: dict[str, list[float]] = {"search": [], "read": []}
        self._scenes: list[Scene] = []
        self._refusals: list[str] = []

    def run(self, num_patches: int) -> dict[str, Any]:
        """Read patches, and return what was seen: times in seconds, shares from 0 to 1.

        Raises:
            ComeBack: The service does not answer.
            UserError: No scene can be read.
        """
        values: list[tuple[int, int, bool]] = []  # least, largest, with gaps
        try:
            for place, scene in self._patches(_MOST_PLACES * num_patches):
                images = self._timed("read", partial(self._source.read, scene, place.grid))
                if images is not None:
                    pixels = np.concatenate([image.ravel() for image in images.values()])
                    with_gaps = has_gaps(images, scene.is_clamped)
                    values.append((int(pixels.min()), int(pixels.max()), with_gaps))
                if len(values) == num_patches:
                    break
        except Transient as error:
            raise ComeBack(f"the service does not answer, the last error: {error}") from error
        if not values:
            example = f", for example: {self._refusals[0]}" if self._refusals else ""
            raise UserError(
                f"none of the {len(self._scenes)} scenes that were found could be read{example}: "
                "check --collection and --bands, raise --cloud_pct, or lower --clear_fraction"
            )
        least, largest, gaps = zip(*values, strict=True)
        return {
            **self._source.describe(),
            "patches": len(values),
            "places_per_search": self._source.places_per_search,
            **{f"{kind}_s": _spread(times) for kind, times in self._seconds.items()},
            "requests": self._requester.statistics.requests,
            "failed_requests": dict(self._requester.statistics.errors),
            "refused": self._refusals,
            "scenes_found": len(self._scenes),
            "scenes_without_cloud_score": sum(s.clear_fraction is None for s in self._scenes),
            "least_value": min(least),
            "largest_value": max(largest),
            "patches_with_gaps": sum(gaps),
            **self._source.facts(),
        }

    def _patches(self, num_places: int) -> Iterator[tuple[Place, Scene]]:
        """Yield the best scene of each window of the places that have one for all."""
        numbers, size = range(len(self._plan.places))[:num_places], self._source.places_per_search
        for start in range(0, len(numbers), size):
            places = [self._plan.place(number) for number in numbers[start : start + size]]
            found = self._timed("search", partial(self._source.search, places)) or []
            for place, scenes in zip(places, found, strict=False):
                self._scenes += scenes
                candidates = choose(place, scenes, self._plan.settings)
                if not isinstance(candidates, Lack):
                    yield from ((place, window[0]) for window in candidates)

    def _timed(self, kind: str, request: Callable[[], Answer]) -> Answer | None:
        """Return the answer, or None if it is refused."""
        started = time.perf_counter()
        try:
            answer = until_certain(self._requester, self._source, request, tries=2)
        except Refused as error:
            self._refusals.append(str(error))
            return None
        self._seconds[kind].append(time.perf_counter() - started)
        return answer


def _spread(seconds: list[float]) -> str:
    low, middle, high = np.quantile(seconds, [0, 0.5, 1])
    return f"{middle:.2f} ({low:.2f} .. {high:.2f}, {len(seconds)} times)"
