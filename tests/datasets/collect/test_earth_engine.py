"""Earth Engine's answers by the real client: what they mean, and what is made of their faults."""

import gzip
import io
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from email.utils import formatdate
from typing import Any

import ee
import numpy as np
import pytest

from datasets.bands import ALL_BANDS
from datasets.collect.earth_engine import EarthEngine, connect
from datasets.collect.ee_answers import decode
from datasets.collect.scenes import ComeBack, Missing, PatchGrid, Place, Refused, Scene, Window
from datasets.collect.settings import Settings
from datasets.collect.utm import from_utm
from datasets.miniature.services import earth_engine as earth_engine_server
from datasets.miniature.services import faults
from datasets.miniature.services.catalogue import pixel_centres
from datasets.miniature.services.earth_engine import EarthEngineServer
from datasets.miniature.services.expressions import CLOUD_SCORE, S2
from datasets.miniature.services.faults import Fault, content, status
from tests.references.waiting import HANG_S
from utils.errors import UserError
from utils.retry import Transient

SIZE = 24  # pixels of a patch
WINDOW = Window(date(2022, 6, 1), date(2022, 7, 1))
GRID = PatchGrid(32631, 420_000, 5_460_000, SIZE)
Failure = Callable[[str, Fault], Exception | None]
NPY, JSON = "application/octet-stream", "application/json"


@pytest.fixture(scope="module")
def source(server: EarthEngineServer) -> EarthEngine:
    """The client is one per process, and costs time to start."""
    where: dict[str, Any] = {"url": server.url, "project": None, "key_file": None}
    return connect(Settings(), **where, timeout_s=HANG_S, num_threads=8)


@pytest.fixture(autouse=True)
def _no_faults_are_left(server: EarthEngineServer, source: EarthEngine) -> Iterator[None]:
    source._has_searched = False
    yield
    for queue in server.faults.values():
        queue.clear()
    server.headers = ()


def place() -> Place:
    middle = 5 * SIZE
    latitude, longitude = from_utm(GRID.left + middle, GRID.top - middle, GRID.epsg)
    return Place(0, float(latitude), float(longitude), GRID, (WINDOW,))


@pytest.fixture
def scene(server: EarthEngineServer) -> Scene:
    """A scene that has data in all of the place."""
    centres = pixel_centres(GRID.left, GRID.top, SIZE, SIZE, 10)
    found = server.catalogue.granules(GRID.epsg, GRID.bounds, WINDOW.start, WINDOW.end)
    granule = next(g for g in found if server.catalogue.is_valid(g, *centres).all())
    return Scene(granule.name, granule.start, 0, 1, 1, "")


def same(images: dict[str, Any], others: dict[str, Any]) -> bool:
    return all(np.array_equal(images[band], others[band]) for band in ALL_BANDS)


@pytest.fixture
def failure(server: EarthEngineServer, source: EarthEngine, scene: Scene) -> Failure:
    """Return what a request raises when the server does this, also to halves of it."""

    def raised_by(kind: str, fault: Fault) -> Exception | None:
        server.faults[kind] += [fault] * (4 if kind == "read" else 1)  # 12, 6, 3, and 1 bands
        try:
            source.search([place()]) if kind == "search" else source.read(scene, GRID)
        except Exception as error:
            return error
        finally:
            server.faults[kind].clear()
        return None

    return raised_by


def test_a_search_returns_cloud_and_properties_as_plain_json(
    server: EarthEngineServer, source: EarthEngine
) -> None:
    [scenes] = source.search([place()])
    assert scenes
    for scene in scenes:
        granule = server.catalogue.find(scene.name)
        assert granule is not None
        properties = server.catalogue.properties(granule)
        assert scene.cloud_percent == properties["CLOUDY_PIXEL_PERCENTAGE"] < 10
        assert json.loads(json.dumps(scene.properties)) == scene.properties
        assert scene.properties["MGRS_TILE"] == properties["MGRS_TILE"]


FEATURE: dict[str, Any] = {
    "scene": "20220601T100000_20220601T100011_T31UDQ",
    "system:time_start": 1_654_077_600_000,
    "CLOUDY_PIXEL_PERCENTAGE": 1,
    **dict.fromkeys(ALL_BANDS, 1),
    "known": 1,
    "clear": 0.5,
}


def answer_of(**changes: Any) -> Fault:
    found = [[{"type": "Feature", "properties": FEATURE | changes}]]
    return content(json.dumps({"result": found}).encode(), JSON)


@pytest.mark.parametrize(
    ("changes", "valid", "clear"),
    [
        ({}, 1, 0.5),
        ({"B9": None}, 0, 0.5),
        ({"B8A": 0.75, "B12": 0.5}, 0.5, 0.5),
        ({"known": None, "clear": None}, 1, None),
        ({"known": 0.4, "clear": 0.4}, 1, None),
        ({"known": 0.8, "clear": 0.6}, 1, 0.75),
    ],
)
def test_what_is_not_known_never_counts_as_cloudy(
    server: EarthEngineServer, source: EarthEngine, changes: Any, valid: float, clear: float | None
) -> None:
    server.faults["search"].append(answer_of(**changes))
    [[scene]] = source.search([place()])
    assert (scene.valid_fraction, scene.clear_fraction) == (valid, clear)


@pytest.mark.parametrize(
    "fault",
    [
        answer_of(scene="../../20220601_T31UDQ"),
        answer_of(scene=5),
        answer_of(**{"system:time_start": 1e30}),
        answer_of(**{"system:time_start": None}),
        *(content(text.encode(), JSON) for text in ('{"result": []}', '{"result": null}')),
        *(content(text.encode(), JSON) for text in ('{"result": {"a": 1}}', '{"result": [["a"]]}')),
    ],
    ids=range(8),
)
def test_an_odd_list_of_scenes_is_a_strange_answer(
    server: EarthEngineServer, source: EarthEngine, fault: Fault
) -> None:
    server.faults["search"].append(fault)
    with pytest.raises(Transient) as caught:
        source.search([place()])
    assert caught.value.is_strange


def test_only_the_requested_bands_are_read_by_one_request(
    server: EarthEngineServer, source: EarthEngine, scene: Scene
) -> None:
    before = server.requests["read"]
    images = EarthEngine(Settings(bands=("B4", "B9")), source.transport).read(scene, GRID)
    assert {band: image.shape for band, image in images.items()} == {"B4": (24, 24), "B9": (4, 4)}
    assert server.requests["read"] == before + 1


def test_too_large_a_request_is_split_by_bands(
    server: EarthEngineServer,
    source: EarthEngine,
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, before = source.read(scene, GRID), server.requests["read"]
    monkeypatch.setattr(earth_engine_server, "_LARGEST", 3 * 3 * SIZE**2)
    images = source.read(scene, GRID)
    assert server.requests["read"] == before + 7  # 12, 6, 3, 3, 6, 3, 3 bands
    assert tuple(images) == ALL_BANDS
    assert same(images, wanted)
    monkeypatch.setattr(earth_engine_server, "_LARGEST", 1)
    with pytest.raises(Transient, match="Total request size") as caught:
        source.read(scene, GRID)
    assert caught.value.is_too_large


@pytest.mark.parametrize("name", faults.TOO_LARGE)
def test_what_takes_too_much_may_work_by_halves(
    server: EarthEngineServer, source: EarthEngine, scene: Scene, failure: Failure, name: str
) -> None:
    error = failure("search", faults.TOO_LARGE[name])
    assert isinstance(error, Transient)
    assert error.is_too_large
    wanted, before = source.read(scene, GRID), server.requests["read"]
    server.faults["read"].append(faults.TOO_LARGE[name])
    images = source.read(scene, GRID)
    assert server.requests["read"] == before + 3
    assert same(images, wanted)


def test_the_smallest_request_is_never_too_large(
    server: EarthEngineServer, source: EarthEngine
) -> None:
    """The check is repeated until an outage ends."""
    server.faults["check"].append(faults.TOO_LARGE["504"])
    with pytest.raises(Transient) as caught:
        source.check()
    assert not caught.value.is_too_large


def npy(
    bands: Sequence[str] = ALL_BANDS, kind: str = "<u2", shape: tuple[int, ...] = (SIZE, SIZE)
) -> bytes:
    file = io.BytesIO()
    pixels = np.zeros(shape, [(band, kind) for band in bands])
    for number, band in enumerate(bands):
        pixels[band] = 258 + number
    np.save(file, pixels)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_either_order_of_bytes_gives_the_same_pixels(
    server: EarthEngineServer, source: EarthEngine, scene: Scene, kind: str
) -> None:
    server.faults["read"].append(content(npy(kind=kind), NPY))
    before = int(source.facts()["bytes received"])
    images = source.read(scene, GRID)
    assert [image.dtype for image in images.values()] == [np.dtype(np.uint16)] * 12
    assert [int(image[0, 0]) for image in images.values()] == [258 + n for n in range(12)]
    assert source.facts()["dtype of the pixels"] == kind
    assert int(source.facts()["bytes received"]) - before == len(npy())


@pytest.mark.parametrize(
    "body",
    [
        *(npy(shape=shape) for shape in ((SIZE, SIZE + 1), (SIZE,))),
        *(npy(kind=kind) for kind in ("<i4", "<f2")),
        *(npy(bands=bands) for bands in (ALL_BANDS[:11], ALL_BANDS[::-1])),
        npy().replace(b"NUMPY", b"DUMPY"),
    ],
    ids=range(7),
)
def test_another_array_than_was_requested_is_a_strange_answer(
    server: EarthEngineServer, source: EarthEngine, scene: Scene, body: bytes
) -> None:
    server.faults["read"].append(content(body, NPY))
    with pytest.raises(Transient) as caught:
        source.read(scene, GRID)
    assert caught.value.is_strange


def test_damaged_arrays_are_never_another_error() -> None:
    draws, whole = random.Random(0), npy()
    for _ in range(300):
        body = bytearray(whole[: draws.randrange(1, len(whole))])
        for _ in range(draws.randrange(4)):
            body[draws.randrange(min(len(body), 500))] = draws.randrange(256)
        with pytest.raises(Transient):
            decode(bytes(body), ALL_BANDS, SIZE)


def test_a_compressed_answer_is_read(
    server: EarthEngineServer, source: EarthEngine, scene: Scene
) -> None:
    body, encoding = gzip.compress(npy()), (("Content-Encoding", "gzip"),)
    server.faults["read"].append(content(body, NPY, headers=encoding))
    assert source.read(scene, GRID)["B1"][0, 0] == 258
    assert source.facts()[f"encoding of {NPY}"] == "gzip"


# Whether it is a matter of quota, and whether it is strange in a search and in a read.
STRANGE = {"short": (True, False), "empty": (True, False)}
STRANGE |= dict.fromkeys(("a page", "an empty object"), (True, True))


@pytest.mark.parametrize("name", faults.PASSING)
@pytest.mark.difference("collect-errors")
def test_a_fault_that_passes_is_repeated(failure: Failure, name: str) -> None:
    strange = STRANGE.get(name, (False, False))
    for kind, is_strange in zip(("search", "read"), strange, strict=True):
        error = failure(kind, faults.PASSING[name])
        assert isinstance(error, Transient), kind
        is_quota = name.startswith(("429", "403"))
        assert (error.is_quota, error.is_strange) == (is_quota, is_strange), kind
    assert failure("read", faults.no_fault) is None


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("text", "wait_s"),
    [("17", 17), ("9" * 5000, 3600), ("soon", 0), ("-5", 0), ("", 0), (None, 3000)],
)
def test_the_service_says_how_long_to_wait(
    failure: Failure, code: int, text: str | None, wait_s: float
) -> None:
    text = formatdate(time.time() + wait_s, usegmt=True) if text is None else text
    fault = status(code, headers=(("Retry-After", text),))
    error = failure("read", fault)
    assert isinstance(error, Transient)
    assert wait_s - HANG_S < error.wait_s <= wait_s
    assert error.wait_s == wait_s or text.endswith("GMT")


FINAL: list[tuple[Fault, type[Exception], str]] = [
    (status(400, "Image.select: Band pattern 'B99' did not match"), Refused, "HTTP 400, Image.se"),
    (status(400, "\x1b[2Jwrong"), Refused, r"HTTP 400, '\x1b[2Jwrong'"),
    (status(404, "Asset 'A' not found."), Missing, "HTTP 404, Asset 'A' not found."),
    (faults.missing("Image", f"{'long/' * 99}A"), Missing, "HTTP 400, Image.load: Image asset"),
    (status(403, "Permission denied.", reason="forbidden"), UserError, "--project"),
    (faults.DAY, ComeBack, "quota of the day or month is used up"),
    (faults.quota("All requests per day"), ComeBack, "midnight Pacific time"),
    (status(403, "Daily Limit Exceeded.", reason="dailyLimitExceeded"), ComeBack, "of the day"),
    (faults.quota("EECU-hours per month"), ComeBack, "month is used up"),
    (status(429, "The EECU quota is used up."), ComeBack, "console.cloud.google.com/quotas"),
]


@pytest.mark.parametrize("kind", ["search", "read"])
@pytest.mark.parametrize(("fault", "error", "text"), FINAL, ids=range(10))
def test_a_fault_that_stays_is_final(
    failure: Failure, kind: str, fault: Fault, error: type[Exception], text: str
) -> None:
    caught = failure(kind, fault)
    assert type(caught) is error
    assert text in str(caught)
    assert str(caught).isprintable()


def test_a_restricted_project_comes_back_another_month(
    server: EarthEngineServer, source: EarthEngine
) -> None:
    server.headers = (("x-earth-engine-quota-status", "parallelism_restricted=true"),)
    with pytest.raises(ComeBack, match="restricted mode"):
        source.search([place()])


def drip_redirect(handler: Any, body: bytes, kind: str) -> None:
    handler.head(302, kind, len(body), [("Location", "/")])
    handler.head = lambda *_: None
    faults.drip(handler, body, kind)


ENDLESS = [
    *faults.STALLING.values(),
    content(b"x", NPY, headers=(("Content-Length", "9" * 5000),)),
    drip_redirect,
]


@pytest.mark.parametrize("kind", ["search", "read"])
@pytest.mark.parametrize("fault", ENDLESS, ids=range(4))
def test_an_answer_that_takes_too_long_ends(
    failure: Failure, source: EarthEngine, monkeypatch: pytest.MonkeyPatch, kind: str, fault: Fault
) -> None:
    monkeypatch.setattr(source.transport.web, "timeout_s", 0.2)
    error = failure(kind, fault)
    assert isinstance(error, Transient)
    assert str(error) == "no answer in time"


@pytest.mark.parametrize(
    "where",
    ["http://[", "ftp://127.0.0.1/", "http://127.0.0.1:x/", "/again", f"http://{'a' * 99}/"],
)
def test_a_redirect_to_nowhere_is_one_sentence(failure: Failure, where: str) -> None:
    fault = content(b"", code=302, headers=(("Location", where),))
    error = failure("read", fault)
    assert isinstance(error, Transient | Missing)


def test_many_threads_share_their_connections(
    source: EarthEngine, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        caught = list(pool.map(lambda _: source.read(scene, GRID), range(40)))
    assert all(same(images, caught[0]) for images in caught)
    assert "pool is full" not in caplog.text


@pytest.mark.parametrize("asset", [S2, CLOUD_SCORE])
def test_a_collection_that_does_not_exist_is_an_error_of_the_user(
    server: EarthEngineServer, source: EarthEngine, asset: str
) -> None:
    fault = faults.missing("ImageCollection", asset)
    server.faults["check"].append(fault)
    with pytest.raises(
        UserError, match=rf"^--collection {S2} does not .*{asset}.* --cloud_score none"
    ):
        source.check()
    source.search([place()])
    server.faults["check"].append(fault)
    with pytest.raises(Transient, match="though searches worked"):
        source.check()


@pytest.mark.parametrize("code", [403, 404, 511])
def test_a_page_with_any_status_is_not_an_answer_of_the_service(
    failure: Failure, code: int
) -> None:
    error = failure("search", content(faults.HTML, code=code))
    assert isinstance(error, Transient)
    assert error.is_strange == (code < 500)


def test_the_description_names_collection_score_and_client(source: EarthEngine) -> None:
    described = source.describe()
    assert described["collection"] == S2
    assert described["cloud_score"] == f"{CLOUD_SCORE} cs_cdf"
    assert described["client"] == f"earthengine-api {ee.__version__}"
