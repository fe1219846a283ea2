"""What threads do for a fetch: look for scenes, read and write them. They decide nothing else."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from datasets.collect_choice import Candidates, Lack, acquisition, choose
from datasets.collect_journal import Outcome, Record
from datasets.collect_plan import Plan
from datasets.collect_scenes import Array, Place, Refused, Scene, Source
from datasets.collect_writer import Draft, PlaceWriter
from utils.rate_limit import Requester

Found = list[tuple[Place, Candidates | Lack]]


class Collector:
    """Searches and collects places; all its methods may run in many threads at once.

    They raise what ``Source`` raises but ``Refused``, ``Transient`` only without repeats left, and
    ``utils.rate_limit.Stopped`` when the run ends.

    Args:
        plan: Of the collection.
        source: Of scenes.
        requester: Sends all requests.
        writer: Of places.
    """

    def __init__(
        self, plan: Plan, source: Source, requester: Requester, writer: PlaceWriter
    ) -> None:
        self.places_per_search = source.places_per_search
        self._plan = plan
        self._source = source
        self._requester = requester
        self._writer = writer

    def search(self, numbers: Sequence[int]) -> Found:
        """Find and rank the scenes of some places by one request.

        What is refused for several places (too much memory, say) is asked again by halves, so that
        no place is lost because of those beside which it was looked for.
        """
        places = [self._plan.place(number) for number in numbers]
        try:
            found = self._requester.call(partial(self._source.search, places))
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
        """Read and write a scene for each window of a place, or tell why there is none."""
        draft = self._writer.draft(place)
        try:
            taken: set[object] = set()
            for scenes in candidates.windows:
                fresh = [scene for scene in scenes if acquisition(scene) not in taken]
                result = self._first_good(draft, place, fresh)
                if isinstance(result, Record):
                    return result
                taken.add(acquisition(result))
            return draft.finish()
        finally:
            draft.discard()

    def _first_good(self, draft: Draft, place: Place, scenes: Sequence[Scene]) -> Scene | Record:
        """Write the first scene that can be read and has data everywhere."""
        outcome: Outcome = "cloudy"
        reason = "the only clear scene of a window is taken by another window"
        for scene in scenes:
            try:
                images = self._requester.call(partial(self._source.read, scene, place.grid))
            except Refused as error:
                outcome, reason = "refused", f"{scene.name}: {error}"
                continue
            if has_gaps(images):
                outcome, reason = "cloudy", f"{scene.name} has pixels without data"
                continue
            draft.add(scene, images)
            return scene
        return Record(place.number, outcome, reason)


def has_gaps(images: dict[str, Array]) -> bool:
    """Tell whether a pixel has no data: 0 in all bands of a resolution, as one may be dark."""
    sizes = {image.shape for image in images.values()}
    stacks = (np.stack([x for x in images.values() if x.shape == size]) for size in sizes)
    return any(bool((stack == 0).all(0).any()) for stack in stacks)
