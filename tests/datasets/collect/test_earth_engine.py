"""The real client of Earth Engine against a loopback server: what it finds, reads and survives."""

import gzip
import io
import json
import logging
import random
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
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
WINDOWS = (
    Window(date(2022, 6, 1), date(2022, 7, 1)),
    Window(date(2021, 9, 1), date(2021, 9, 21)),
)
ALGORITHMS, DISCOVERY = "/v1/projects/loopback/algorithms", "/$discovery/rest"
JSON = "application/json"


@pytest.fixture(autouse=True)
def _no_faults_are_left(
    server: EarthEngineServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    for name in ("EARTHENGINE_PROJECT", "EARTHENGINE_SERVICE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    yield
    server.faults = {"search": deque(), "check": deque(), "read": deque()}
    server.headers = ()


LATEST: list[EarthEngine] = []  # the client is one per process


def connected(server: EarthEngineServer, patience_s: float = HANG_S, **changes: Any) -> EarthEngine:
    LATEST.clear()
    source = connect(
        Settings(**changes),
        url=server.url,
        project=None,
        key_file=None,
        timeout_s=HANG_S,
        num_threads=8,
        patience_s=patience_s,
    )
    LATEST.append(source)
    return source


@pytest.fixture(scope="module")
def shared() -> list[EarthEngine]:
    return []


@pytest.fixture
def source(server: EarthEngineServer, shared: list[EarthEngine]) -> EarthEngine:
    """A source that tests share until one of them starts the client anew, which is one only."""
    if not shared or shared != LATEST:
        shared[:] = [connected(server)]
    return shared[0]


def place(number: int) -> Place:
    left, top = 420_000 + 20_040 * number, 5_460_000
    latitude, longitude = from_utm(left + 5 * SIZE, top - 5 * SIZE, 32631)
    grid = PatchGrid(32631, left, top, SIZE)
    return Place(number, float(latitude), float(longitude), grid, WINDOWS)


PLACES = [place(number) for number in range(4)]


def a_scene(server: EarthEngineServer) -> Scene:
    """A scene that has data in all of a place."""
    at, window = PLACES[0], WINDOWS[0]
    for granule in server.catalogue.granules(32631, at.grid.bounds, window.start, window.end):
        if server.catalogue.is_valid(granule, *centres(at.grid, 10)).all():
            return Scene(granule.name, granule.start, 0, 1, 1, "")
    raise AssertionError("no scene")


def centres(grid: PatchGrid, size: int) -> Any:
    side = 10 * grid.size_px // size
    return pixel_centres(grid.left, grid.top, side, side, size)


def test_a_search_tells_cloud_and_properties_as_plain_json(
    server: EarthEngineServer, source: EarthEngine
) -> None:
    for scene in source.search(PLACES[:1])[0]:
        granule = server.catalogue.find(scene.name)
        assert granule is not None
        properties = server.catalogue.properties(granule)
        assert scene.cloud_percent == properties["CLOUDY_PIXEL_PERCENTAGE"] < 10
        assert json.loads(json.dumps(scene.properties)) == scene.properties
        assert scene.properties["MGRS_TILE"] == properties["MGRS_TILE"]


@pytest.mark.parametrize("kind", ["search", "read"])
@pytest.mark.parametrize("name", faults.TOO_LARGE)
def test_what_asks_for_too_much_is_told_from_what_passes(
    server: EarthEngineServer, source: EarthEngine, name: str, kind: str
) -> None:
    error = failure(server, source, kind, faults.TOO_LARGE[name])
    assert isinstance(error, Transient)
    assert error.is_too_large


def answer_of(*features: dict[str, Any]) -> Fault:
    found = [[{"type": "Feature", "properties": properties} for properties in features]]
    return content(json.dumps({"result": found}).encode(), JSON)


FEATURE = {
    "scene": "20220601T100000_20220601T100011_T31UDQ",
    "system:time_start": 1_654_077_600_000,
    "CLOUDY_PIXEL_PERCENTAGE": 1,
    **dict.fromkeys(ALL_BANDS, 1),
    "known": 1,
    "clear": 0.5,
}


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
def test_what_is_not_known_is_never_taken_for_cloudy(
    server: EarthEngineServer, source: EarthEngine, changes: Any, valid: float, clear: float | None
) -> None:
    server.faults["search"].append(answer_of({**FEATURE, **changes}))
    [[scene]] = source.search(PLACES[:1])
    assert (scene.valid_fraction, scene.clear_fraction) == (valid, clear)


@pytest.mark.parametrize(
    "fault",
    [
        answer_of({**FEATURE, "scene": "../../20220601_T31UDQ"}),
        answer_of({**FEATURE, "scene": 5}),
        answer_of({**FEATURE, "system:time_start": 1e30}),
        answer_of({"scene": "a"}),
        content(b'{"result": []}', JSON),
        content(b'{"result": null}', JSON),
        content(b'{"result": {"a": 1}}', JSON),
        content(b'{"result": [["a"]]}', JSON),
    ],
)
def test_an_odd_list_of_scenes_is_a_strange_answer(
    server: EarthEngineServer, source: EarthEngine, fault: Fault
) -> None:
    server.faults["search"].append(fault)
    with pytest.raises(Transient) as caught:
        source.search(PLACES[:1])
    assert caught.value.is_strange


def test_only_the_bands_that_are_wanted_are_read_by_one_request(server: EarthEngineServer) -> None:
    source, before = connected(server, bands=("B4", "B9")), server.requests["read"]
    images = source.read(a_scene(server), PLACES[0].grid)
    assert {band: image.shape for band, image in images.items()} == {"B4": (24, 24), "B9": (4, 4)}
    assert server.requests["read"] == before + 1


def test_too_large_a_request_is_split_by_bands(
    server: EarthEngineServer, source: EarthEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, grid = a_scene(server), PLACES[0].grid
    wanted, before = source.read(scene, grid), server.requests["read"]
    monkeypatch.setattr(earth_engine_server, "_LARGEST", 3 * 3 * SIZE**2)
    images = source.read(scene, grid)
    assert server.requests["read"] == before + 7  # 12, 6, 3, 3, 6, 3, 3 bands
    assert tuple(images) == ALL_BANDS
    assert all(np.array_equal(images[band], wanted[band]) for band in ALL_BANDS)


def test_a_band_that_is_too_large_alone_is_refused(
    server: EarthEngineServer, source: EarthEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earth_engine_server, "_LARGEST", 1)
    with pytest.raises(Transient, match="Total request size") as caught:
        source.read(a_scene(server), PLACES[0].grid)
    assert caught.value.is_too_large


@pytest.mark.parametrize("name", faults.TOO_LARGE)
def test_pixels_that_take_too_much_are_read_by_halves(
    server: EarthEngineServer, source: EarthEngine, name: str
) -> None:
    scene, grid = a_scene(server), PLACES[0].grid
    wanted, before = source.read(scene, grid), server.requests["read"]
    server.faults["read"].append(faults.TOO_LARGE[name])
    images = source.read(scene, grid)
    assert server.requests["read"] == before + 3
    assert all(np.array_equal(images[band], wanted[band]) for band in ALL_BANDS)


def npy(
    bands: Sequence[str] = ALL_BANDS, kind: str = "<u2", shape: tuple[int, ...] = (SIZE, SIZE)
) -> bytes:
    file = io.BytesIO()
    pixels = np.zeros(shape, [(band, kind) for band in bands])
    for number, band in enumerate(bands):
        pixels[band] = 258 + number
    np.save(file, pixels)
    return file.getvalue()


def test_either_order_of_bytes_gives_the_same_pixels(
    server: EarthEngineServer, source: EarthEngine
) -> None:
    for kind in ("<u2", ">u2"):
        server.faults["read"].append(content(npy(kind=kind), "application/octet-stream"))
        images = source.read(a_scene(server), PLACES[0].grid)
        assert [image.dtype for image in images.values()] == [np.dtype(np.uint16)] * 12
        assert [int(image[0, 0]) for image in images.values()] == [258 + n for n in range(12)]


@pytest.mark.parametrize(
    "body",
    [
        npy(shape=(SIZE, SIZE + 1)),
        npy(shape=(SIZE,)),
        npy(kind="<i4"),
        npy(kind="<f2"),
        npy(bands=ALL_BANDS[:11]),
        npy(bands=ALL_BANDS[::-1]),
        npy().replace(b"NUMPY", b"DUMPY"),
    ],
)
def test_another_array_than_the_one_that_was_asked_for_is_a_strange_answer(
    server: EarthEngineServer, source: EarthEngine, body: bytes
) -> None:
    server.faults["read"].append(content(body, "application/octet-stream"))
    with pytest.raises(Transient) as caught:
        source.read(a_scene(server), PLACES[0].grid)
    assert caught.value.is_strange


def test_damaged_arrays_are_never_another_error() -> None:
    draws, whole = random.Random(0), npy()
    for _ in range(300):
        body = bytearray(whole[: draws.randrange(1, len(whole))])
        for _ in range(draws.randrange(4)):
            body[draws.randrange(min(len(body), 500))] = draws.randrange(256)
        with pytest.raises(Transient):
            decode(bytes(body), ALL_BANDS, SIZE)


def test_a_compressed_answer_is_read(server: EarthEngineServer, source: EarthEngine) -> None:
    def compressed(handler: Any, body: bytes, kind: str) -> None:
        handler.answer(200, gzip.compress(body), kind, headers=(("Content-Encoding", "gzip"),))

    scene = a_scene(server)
    wanted = source.read(scene, PLACES[0].grid)
    server.faults["read"].append(compressed)
    images = source.read(scene, PLACES[0].grid)
    assert all(np.array_equal(images[band], wanted[band]) for band in ALL_BANDS)
    assert source.facts()["answers of application/octet-stream"].startswith("encoding gzip")


def failure(
    server: EarthEngineServer, source: EarthEngine, kind: str, fault: Fault
) -> Exception | None:
    """Return what a request raises when the server does this, also to halves of it."""
    server.faults[kind] += [fault] * (4 if kind == "read" else 1)  # 12, 6, 3, and 1 bands
    try:
        if kind == "search":
            source.search(PLACES[:1])
        else:
            source.read(a_scene(server), PLACES[0].grid)
    except Exception as error:
        return error
    finally:
        server.faults[kind].clear()
    return None


# Whether it is a matter of quota, and whether it is strange in a search and in a read.
ROWS = {
    "429": (True, False, False),
    "429 with Retry-After": (True, False, False),
    "429 of a minute": (True, False, False),
    "500": (False, False, False),
    "503": (False, False, False),
    "502 with a page": (False, False, False),
    "403 for the rate": (True, False, False),
    "reset": (False, False, False),
    "cut": (False, False, False),
    "cut in chunks": (False, False, False),
    "short": (False, True, False),
    "empty": (False, True, False),
    "a page": (False, True, True),
    "an empty object": (False, True, True),
}


def test_the_table_has_all_faults() -> None:
    assert set(ROWS) == set(faults.PASSING)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.difference("collect-errors")
def test_a_fault_that_passes_is_told_as_such(
    server: EarthEngineServer, source: EarthEngine, name: str
) -> None:
    is_quota, *strange = ROWS[name]
    for kind, is_strange in zip(("search", "read"), strange, strict=True):
        error = failure(server, source, kind, faults.PASSING[name])
        assert isinstance(error, Transient), kind
        assert (error.is_quota, error.is_strange) == (is_quota, is_strange), kind
    assert failure(server, source, "read", faults.no_fault) is None


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("text", "wait_s"), [("17", 17), ("100000", 3600), ("soon", 0), ("-5", 0), ("", 0)]
)
def test_the_service_says_how_long_to_wait(
    server: EarthEngineServer, source: EarthEngine, code: int, text: str, wait_s: float
) -> None:
    error = failure(server, source, "read", status(code, headers=(("Retry-After", text),)))
    assert isinstance(error, Transient)
    assert error.wait_s == wait_s


def test_the_service_says_until_when_to_wait(
    server: EarthEngineServer, source: EarthEngine
) -> None:
    when = (("Retry-After", formatdate(time.time() + 3000, usegmt=True)),)
    error = failure(server, source, "read", status(503, headers=when))
    assert isinstance(error, Transient)
    assert 3000 - HANG_S < error.wait_s <= 3000


FINAL: list[tuple[Fault, type[Exception], str]] = [
    (status(400, "Image.select: Band pattern 'B99' did not match"), Refused, "HTTP 400, Image.se"),
    (status(404, "Asset 'A' not found."), Missing, "HTTP 404, Asset 'A' not found."),
    (faults.missing("Image", f"{'long/' * 99}A"), Missing, "HTTP 400, Image.load: Image asset"),
    (status(403, "Permission denied.", reason="forbidden"), UserError, "--project"),
    (status(401, "Invalid Credentials"), UserError, "earthengine authenticate"),
    (faults.DAY, ComeBack, "quota of the day is used up"),
    (faults.quota("All requests per day"), ComeBack, "midnight Pacific time"),
    (status(403, "Daily Limit Exceeded.", reason="dailyLimitExceeded"), ComeBack, "of the day"),
    (faults.quota("EECU-hours per month"), ComeBack, "quota of the month is used up"),
    (status(429, "The EECU quota is used up."), ComeBack, "quota of compute time is used up"),
]


@pytest.mark.parametrize("kind", ["search", "read"])
@pytest.mark.parametrize(("fault", "error", "text"), FINAL, ids=lambda value: str(value)[:20])
def test_a_fault_that_stays_is_final(
    server: EarthEngineServer, source: EarthEngine, kind: str, fault: Fault, error: Any, text: str
) -> None:
    caught = failure(server, source, kind, fault)
    assert type(caught) is error
    assert text in str(caught)


def test_a_restricted_project_comes_back_another_month(server: EarthEngineServer) -> None:
    source = connected(server)
    server.headers = (("x-earth-engine-quota-status", "parallelism_restricted=true"),)
    with pytest.raises(ComeBack, match="restricted mode"):
        source.search(PLACES[:1])


@pytest.mark.parametrize("kind", ["search", "read"])
@pytest.mark.parametrize("fault", faults.STALLING)
def test_an_answer_that_takes_too_long_ends(
    server: EarthEngineServer,
    source: EarthEngine,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    fault: str,
) -> None:
    monkeypatch.setattr(source.transport.web, "timeout_s", 0.2)
    error = failure(server, source, kind, faults.STALLING[fault])
    assert isinstance(error, Transient)
    assert str(error) == "no answer in time"


def test_many_threads_share_their_connections(
    server: EarthEngineServer, source: EarthEngine, caplog: pytest.LogCaptureFixture
) -> None:
    scene, caught = a_scene(server), []
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        caught = list(pool.map(lambda _: source.read(scene, PLACES[0].grid), range(40)))
    assert all(np.array_equal(images["B9"], caught[0]["B9"]) for images in caught)
    assert "pool is full" not in caplog.text


def test_bytes_are_counted(server: EarthEngineServer, source: EarthEngine) -> None:
    scene = a_scene(server)
    before = int(source.facts()["bytes received"])
    source.read(scene, PLACES[0].grid)
    assert int(source.facts()["bytes received"]) - before == len(npy())


@pytest.mark.parametrize(
    ("where", "name"),
    [
        *((DISCOVERY, name) for name in ("503", "reset", "a page")),
        *((ALGORITHMS, name) for name in ("429", "an empty object")),
    ],
)
def test_a_fault_at_the_start_is_repeated(
    server: EarthEngineServer, monkeypatch: pytest.MonkeyPatch, where: str, name: str
) -> None:
    monkeypatch.setattr("random.Random.uniform", lambda self, low, high: 0.0)
    server.faults[where] = deque([faults.PASSING[name]])
    assert connected(server).search(PLACES[:1])


@pytest.mark.parametrize(
    ("where", "fault", "text"),
    [
        (DISCOVERY, status(403, "The API is disabled."), "register the project"),
        (ALGORITHMS, status(404, "Project 'projects/P' not found or deleted."), "check --project"),
        (ALGORITHMS, status(403, "Not signed up for Earth Engine."), "Not signed up"),
        (ALGORITHMS, status(401), "earthengine authenticate"),
    ],
)
def test_a_fault_that_stays_at_the_start_is_one_sentence(
    server: EarthEngineServer,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    fault: Fault,
    text: str,
) -> None:
    monkeypatch.setattr("random.Random.uniform", lambda self, low, high: 0.0)
    server.faults[where] = deque([fault] * 20)
    with pytest.raises(UserError, match=text) as caught:
        connected(server)
    assert "\n" not in str(caught.value)


def test_a_quota_that_is_used_up_at_the_start_comes_back_another_month(
    server: EarthEngineServer,
) -> None:
    server.faults[ALGORITHMS] = deque([faults.DAY])
    with pytest.raises(ComeBack, match="quota of the day"):
        connected(server)


@pytest.mark.parametrize(
    ("asset", "sentence"),
    [
        (S2, f"^--collection {S2} does not exist .*: correct it"),
        (CLOUD_SCORE, "^--cloud_score cs_cdf does not exist .*: give --cloud_score none"),
    ],
)
def test_a_collection_that_is_not_there_is_an_error_of_the_user(
    server: EarthEngineServer, source: EarthEngine, asset: str, sentence: str
) -> None:
    """Once the collection itself was asked for."""
    fault = faults.missing("ImageCollection", asset)
    server.faults["search"].append(fault)
    server.faults["check"].append(fault)
    with pytest.raises(UserError, match=sentence):
        source.search(PLACES)
    assert not server.faults["check"]


@pytest.mark.parametrize(
    ("asset", "checks"), [(f"{S2}/20200101T101010_20200101T101011_T32UQD", 0), (S2, 1)]
)
def test_an_image_that_is_not_there_is_not_blamed_on_the_collection(
    server: EarthEngineServer, source: EarthEngine, asset: str, checks: int
) -> None:
    before = server.requests["check"]
    server.faults["search"].append(faults.missing("Image", asset))
    with pytest.raises(Missing):
        source.search(PLACES)
    assert server.requests["check"] - before == checks  # which finds the collection


def test_a_page_with_any_status_is_not_an_answer_of_the_service(
    server: EarthEngineServer, source: EarthEngine
) -> None:
    for code in (403, 404, 511):
        error = failure(server, source, "search", content(faults.HTML, code=code))
        assert isinstance(error, Transient)
        assert error.is_strange == (code < 500)


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        *((DISCOVERY, fault) for fault in (status(503), status(429), faults.reset)),
        (DISCOVERY, content(faults.HTML, code=404)),
        (ALGORITHMS, status(504, "Deadline exceeded")),
        *((ALGORITHMS, fault) for fault in (content(faults.HTML), content(b"{}", JSON))),
    ],
    ids=range(7),
)
def test_trouble_at_the_start_is_no_error_of_the_user(
    server: EarthEngineServer, where: str, fault: Fault
) -> None:
    server.faults[where] = deque([fault] * 999)
    with pytest.raises(ComeBack, match=r"does not answer at .*: check the network, and --ee_url"):
        connected(server, patience_s=0.1)


def test_no_other_host_is_asked(server: EarthEngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would fetch a list of outdated assets: fails if its function is renamed."""
    asked, resolve = set(), socket.getaddrinfo

    def note(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.add(host)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    connected(server).search(PLACES[:1])
    assert asked == {"127.0.0.1"}


def test_the_description_names_collection_score_and_client(source: EarthEngine) -> None:
    described = source.describe()
    assert described["collection"] == "COPERNICUS/S2_SR_HARMONIZED"
    assert described["cloud_score"].endswith("cs_cdf")
    assert described["client"] == f"earthengine-api {ee.__version__}"
