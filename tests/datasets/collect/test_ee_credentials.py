"""The start of Earth Engine: credentials and project, and what is said when they are missing."""

import json
import os
import socket
from collections import deque
from pathlib import Path
from typing import Any

import ee
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError
from google.oauth2 import service_account
from google.oauth2.credentials import Credentials

from datasets.collect.earth_engine import EarthEngine, connect
from datasets.collect.ee_credentials import KEY_VARIABLE, PROJECT_VARIABLE, find_credentials
from datasets.collect.scenes import ComeBack
from datasets.collect.settings import Settings
from datasets.miniature.services import faults
from datasets.miniature.services.earth_engine import EarthEngineServer
from datasets.miniature.services.faults import Fault, content, status
from tests.references.waiting import HANG_S
from utils.errors import UserError
from utils.retry import Transient

REMOTE, LOOPBACK = "https://earthengine-highvolume.googleapis.com", "http://localhost"
SECRET = "1//SECRET-refresh-token"
ADC_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
KEY = {
    "type": "service_account",
    "project_id": "project-of-the-key",
    "client_email": "robot@example.com",
    "token_uri": "http://127.0.0.1:9/token",
}


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()


@pytest.fixture
def key_text(private_key: str) -> str:
    return json.dumps(KEY | {"private_key": private_key})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any credentials, who is never prompted for some."""
    for name in (KEY_VARIABLE, PROJECT_VARIABLE, ADC_VARIABLE, "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")

    def ask(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("asks the user")

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(ee, "Authenticate", ask)
    return tmp_path


def store(home: Path, text: str) -> None:
    path = home / ".config/earthengine/credentials"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def refused(url: str = REMOTE, project: str | None = "p", key_file: Path | None = None) -> str:
    """Return the sentence of the refusal, which shows no secret."""
    with pytest.raises(UserError) as caught:
        find_credentials(url, project, key_file)
    sentence = str(caught.value)
    assert "SECRET" not in sentence
    assert sentence.isprintable()
    return sentence


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost", "[::1]:8080"])
def test_a_loopback_address_needs_nothing(host: str) -> None:
    credentials, project = find_credentials(f"http://{host}/", None, None)
    assert isinstance(credentials, AnonymousCredentials)
    assert project


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "example.com/127.0.0.1", "localhost.x"])
def test_an_address_that_looks_like_loopback_needs_credentials(host: str) -> None:
    assert "`earthengine authenticate` once, or give --service" in refused(f"https://{host}/")


@pytest.mark.parametrize("way", ["flag", "text of the variable", "file in the variable", "default"])
def test_a_key_may_be_a_file_or_text(
    way: str, tmp_path: Path, key_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.json"
    path.write_text(f"\n {key_text}")
    if way != "default":  # which come last
        store(tmp_path, json.dumps({"refresh_token": SECRET, "project": "stored"}))
    values = {
        "flag": (KEY_VARIABLE, "none.json"),
        "text of the variable": (KEY_VARIABLE, f"\n {key_text}"),
        "file in the variable": (KEY_VARIABLE, str(path)),
        "default": (ADC_VARIABLE, str(path)),
    }
    monkeypatch.setenv(*values[way])
    credentials, project = find_credentials(REMOTE, None, path if way == "flag" else None)
    assert isinstance(credentials, service_account.Credentials)
    assert credentials.service_account_email == "robot@example.com"
    assert project == "project-of-the-key"


def test_the_project_of_the_flag_goes_before_the_variable_and_the_credentials(
    key_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key_text)
    monkeypatch.setenv(PROJECT_VARIABLE, "of-the-variable")
    assert find_credentials(REMOTE, "of-the-flag", None)[1] == "of-the-flag"
    assert find_credentials(REMOTE, None, None)[1] == "of-the-variable"


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ({}, (ee.oauth.CLIENT_ID, ee.oauth.CLIENT_SECRET)),
        ({"client_id": "c", "client_secret": "s"}, ("c", "s")),
    ],
)
def test_stored_credentials_have_their_client_or_that_of_the_command_line_tool(
    home: Path, client: dict[str, str], expected: tuple[str, str]
) -> None:
    stored = {"refresh_token": SECRET, "project": "stored", "scopes": ["x"]}
    store(home, json.dumps(stored | client))
    credentials, project = find_credentials(REMOTE, None, None)
    assert isinstance(credentials, Credentials)
    assert (credentials.client_id, credentials.client_secret) == expected
    assert (credentials.refresh_token, credentials.scopes) == (SECRET, ["x"])
    assert (project, credentials.quota_project_id) == ("stored", None)


BAD_KEYS = ["{", "{}", "[]", "null", '{"type": "authorized_user"}', "[" * 100_000, '{"type": []}']


@pytest.mark.parametrize(
    "text",
    [
        *BAD_KEYS,
        json.dumps(KEY | {"private_key": "SECRET"}),
        *(json.dumps(KEY | {"private_key": value}) for value in (5, None, ["SECRET"])),
    ],
    ids=range(11),
)
def test_a_damaged_key_is_one_sentence(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    assert refused(key_file=path).startswith("--service_account_key is not a readable file")
    monkeypatch.setenv(KEY_VARIABLE, text if text.startswith("{") else str(path))
    assert "download the key as JSON from Google Cloud" in refused()


def test_a_key_that_cannot_be_read_is_one_sentence_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, long_name = tmp_path / "pipe", Path('{"private_key": "SECRET"}')
    os.mkfifo(pipe)  # whose reading would wait forever
    for path in (tmp_path / "none.json", tmp_path, long_name, pipe):
        assert "give the name of its file" in refused(key_file=path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(pipe))
    assert "no credentials for Earth Engine were found" in refused()


@pytest.mark.parametrize("text", [SECRET, f'["{SECRET}"]', f'"{SECRET}"', f'{{"a": "{SECRET}"'])
def test_damaged_stored_credentials_are_one_sentence(home: Path, text: str) -> None:
    store(home, text)
    assert "is damaged: run `earthengine authenticate` again" in refused()


@pytest.mark.parametrize("text", ["[]", "", '{"type": "external_account", "audience": "x"}', None])
def test_odd_default_credentials_are_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    store(home, "{}")  # without a token they count as none
    path = home / "adc.json"
    path.mkdir() if text is None else path.write_text(text)
    monkeypatch.setenv(ADC_VARIABLE, str(path))
    assert f"no credentials for Earth Engine were found, {ADC_VARIABLE} included" in refused()


def test_a_user_without_a_home_has_no_stored_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    assert "no credentials for Earth Engine were found" in refused()


@pytest.mark.parametrize("project", [None, "../../x", "a b", "ü", "x\ny", "p" * 1000, {"a": 1}])
def test_what_cannot_be_a_project_is_named(
    project: Any, private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = KEY | {"private_key": private_key, "project_id": project}
    monkeypatch.setenv(KEY_VARIABLE, json.dumps(key))
    assert "give --project, or set EARTHENGINE_PROJECT" in refused(project=None)


@pytest.mark.parametrize(
    "url",
    [
        "http://earthengine.example.org",  # a token in the clear
        *("http://127.0.0.1.example.org", "ftp://127.0.0.1", "127.0.0.1:8000", "https://"),
        *("https://example.org:port", "http://[", "", "http://localhost\n"),
        *("https://me:SECRET@example.org", "ftp://SECRET@x", "http://me:SE/CRET@127.0.0.1"),
    ],
)
def test_an_address_that_is_neither_encrypted_nor_on_this_machine_is_refused(url: str) -> None:
    sentence = refused(url)
    assert sentence.startswith("--ee_url ")
    assert "is not the https:// address of a service" in sentence
    assert "CRET" not in sentence


def start(
    server: EarthEngineServer, key_file: Path | None = None, patience_s: float = HANG_S
) -> EarthEngine:
    times: dict[str, Any] = {"timeout_s": HANG_S, "patience_s": patience_s}
    own: dict[str, Any] = {"url": server.url, "project": None, "key_file": key_file}
    return connect(Settings(), num_threads=2, **own, **times)


@pytest.fixture
def key_path(server: EarthEngineServer, tmp_path: Path, private_key: str) -> Path:
    """A key whose tokens the server gives, at another address than its own."""
    server.requests.clear()
    path = tmp_path / "key.json"
    token_uri = f"{server.url.replace('127.0.0.1', 'localhost')}/token"
    path.write_text(json.dumps(KEY | {"private_key": private_key, "token_uri": token_uri}))
    return path


@pytest.mark.parametrize("is_default", [False, True])
def test_the_client_works_with_a_key_and_with_default_credentials(
    server: EarthEngineServer, key_path: Path, monkeypatch: pytest.MonkeyPatch, is_default: bool
) -> None:
    if is_default:
        monkeypatch.setenv(ADC_VARIABLE, str(key_path))
    source = start(server, None if is_default else key_path)
    assert server.requests["/v1/projects/project-of-the-key/algorithms"] == 1
    assert server.requests["/token"] == 1
    server.faults["check"].append(status(401))  # a token that ran out is renewed
    source.check()
    assert server.requests["/token"] == 2
    server.faults["check"] += [status(401)] * 3
    with pytest.raises(UserError, match="expired or revoked: run `earthengine authenticate`"):
        source.check()
    server.faults["check"].clear()


def test_revoked_credentials_are_one_sentence_that_keeps_the_secret(
    server: EarthEngineServer, key_path: Path
) -> None:
    answer = {"error": "invalid_grant", "error_description": "SECRET has been revoked."}
    server.faults["/token"] = deque([content(json.dumps(answer).encode(), "text/json", 400)])
    with pytest.raises(UserError, match="expired or revoked: run `earthengine auth") as caught:
        start(server, key_path)
    assert server.requests["/token"] == 1  # not repeated
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("retryable", "kind"), [(True, Transient), (False, UserError)])
def test_a_service_of_tokens_that_is_down_is_tried_again(
    server: EarthEngineServer,
    key_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    retryable: bool,
    kind: Any,
) -> None:
    source = start(server, key_path)

    def fail(*_: Any) -> None:
        raise RefreshError("503", retryable=retryable)

    monkeypatch.setattr(ee.data, "computeValue", fail)
    with pytest.raises(kind):
        source.check()


ALGORITHMS, DISCOVERY = "/v1/projects/loopback/algorithms", "/$discovery/rest"
HOSTILE = "\x1b[2J\nNot signed up for Earth Engine."


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
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    server.faults[where] = deque([faults.PASSING[name]])
    start(server).check()
    assert not server.faults[where]


@pytest.mark.parametrize(
    ("where", "fault", "kind", "text"),
    [
        (DISCOVERY, status(403, "The API is disabled."), UserError, "register the project"),
        (ALGORITHMS, status(404, "Project 'projects/P' not found."), UserError, "check --project"),
        (ALGORITHMS, status(403, HOSTILE), UserError, "Not signed up"),
        (ALGORITHMS, status(401), UserError, "earthengine authenticate"),
        (ALGORITHMS, faults.DAY, ComeBack, "quota of the day"),
        *(
            (DISCOVERY, fault, ComeBack, "does not answer at")
            for fault in (status(503), status(429))
        ),
        (DISCOVERY, faults.reset, ComeBack, "check the network, and --ee_url"),
        (DISCOVERY, content(faults.HTML, code=404), ComeBack, "does not answer at"),
        (ALGORITHMS, status(504, "Deadline exceeded"), ComeBack, "does not answer at"),
        (ALGORITHMS, content(b"{}", "application/json"), ComeBack, "does not answer at"),
    ],
    ids=range(11),
)
def test_a_fault_that_stays_at_the_start_is_one_sentence(
    server: EarthEngineServer, where: str, fault: Fault, kind: type[Exception], text: str
) -> None:
    """Trouble of the network or the service is not blamed on the user."""
    server.faults[where] = deque([fault] * 99)
    with pytest.raises(kind, match=text) as caught:
        start(server, patience_s=0.05)
    server.faults[where].clear()
    assert str(caught.value).isprintable()


def test_no_other_host_is_asked(server: EarthEngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would fetch a list of outdated assets: fails if its function is renamed."""
    asked, resolve = set(), socket.getaddrinfo

    def note(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.add(host)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    start(server).check()
    assert asked == {"127.0.0.1"}
