"""Credentials and project: where they come from, and what is said when they are missing."""

import json
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
from datasets.collect.ee_answers import translate
from datasets.collect.ee_credentials import KEY_VARIABLE, PROJECT_VARIABLE, find_credentials
from datasets.collect.settings import Settings
from datasets.miniature.services.earth_engine import EarthEngineServer
from datasets.miniature.services.faults import content, status
from tests.references.waiting import HANG_S
from utils.errors import UserError
from utils.retry import Transient

REMOTE = "https://earthengine-highvolume.googleapis.com"
SECRET = "1//a-refresh-token"
ADC_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any credentials, who is never asked for some."""
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


def key_text(private_key: str, token_uri: str = "http://127.0.0.1:9/token", **changes: Any) -> str:
    key = {
        "type": "service_account",
        "project_id": "project-of-the-key",
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "robot@example.com",
        "client_id": "2",
        "token_uri": token_uri,
    }
    return json.dumps(key | changes)


def find(
    url: str = REMOTE, project: str | None = None, key_file: Path | None = None, **environment: str
) -> tuple[Any, str]:
    own_client = ("own-client", "own-secret")
    return find_credentials(url, project, key_file, own_client=own_client, environment=environment)


def store(home: Path, text: str) -> None:
    path = home / ".config/earthengine/credentials"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def start(server: EarthEngineServer, key_file: Path | None = None) -> EarthEngine:
    return connect(
        Settings(),
        url=server.url,
        project=None,
        key_file=key_file,
        timeout_s=HANG_S,
        num_threads=2,
        patience_s=HANG_S,
    )


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost", "[::1]:8080"])
def test_a_loopback_address_needs_nothing(host: str) -> None:
    credentials, project = find(f"http://{host}/")
    assert isinstance(credentials, AnonymousCredentials)
    assert project


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "example.com/127.0.0.1", "localhost.x"])
def test_an_address_that_looks_like_loopback_needs_credentials(host: str) -> None:
    with pytest.raises(UserError, match="no credentials"):
        find(f"https://{host}/")


def test_the_command_line_goes_before_the_environment(tmp_path: Path, private_key: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(key_text(private_key, client_email="of-the-flag@example.com"))
    credentials, project = find(
        project="of-the-flag",
        key_file=path,
        EARTHENGINE_SERVICE_ACCOUNT_KEY=key_text(private_key),
        EARTHENGINE_PROJECT="of-the-variable",
    )
    assert credentials.service_account_email == "of-the-flag@example.com"
    assert project == "of-the-flag"


def test_the_variable_of_the_project_goes_before_that_of_the_key(private_key: str) -> None:
    _, project = find(
        EARTHENGINE_SERVICE_ACCOUNT_KEY=key_text(private_key), EARTHENGINE_PROJECT="another"
    )
    assert project == "another"


def test_a_key_goes_before_stored_credentials(home: Path, private_key: str) -> None:
    store(home, json.dumps({"refresh_token": SECRET, "project": "stored"}))
    credentials, _ = find(EARTHENGINE_SERVICE_ACCOUNT_KEY=key_text(private_key))
    assert isinstance(credentials, service_account.Credentials)


def test_application_default_credentials_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_key: str
) -> None:
    path = tmp_path / "adc.json"
    path.write_text(key_text(private_key))
    monkeypatch.setenv(ADC_VARIABLE, str(path))
    credentials, project = find()
    assert credentials.service_account_email == "robot@example.com"
    assert project == "project-of-the-key"


def test_without_anything_the_next_step_is_told() -> None:
    with pytest.raises(UserError, match="`earthengine authenticate` once, or give --service"):
        find(project="p")


def test_without_a_project_the_flag_is_told(home: Path) -> None:
    store(home, json.dumps({"refresh_token": SECRET}))
    with pytest.raises(UserError, match="give --project, or set EARTHENGINE_PROJECT"):
        find()


BAD_KEYS = ["{", "{}", "[]", "null", '{"type": "authorized_user"}', "[" * 100_000, '{"type": []}']


@pytest.mark.parametrize("text", BAD_KEYS, ids=lambda text: text[:10])
def test_a_file_that_is_no_key_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a service account's key") as caught:
        find(key_file=path)
    assert "\n" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            find(key_file=path)
    with pytest.raises(UserError, match=f"{KEY_VARIABLE} cannot be read"):
        find(EARTHENGINE_SERVICE_ACCOUNT_KEY=str(tmp_path / "none.json"))


@pytest.mark.parametrize("name", ["private_key", "client_email", "token_uri"])
@pytest.mark.parametrize("value", ["SECRET-KEY", 5, None, ["SECRET"]])
def test_a_damaged_key_is_one_sentence_that_keeps_the_secret(
    private_key: str, name: str, value: Any
) -> None:
    text = json.dumps(json.loads(key_text(private_key)) | {name: value})
    if name != "private_key" and isinstance(value, str):
        return  # any text may be an address
    with pytest.raises(UserError, match="download it again") as caught:
        find(EARTHENGINE_SERVICE_ACCOUNT_KEY=text)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("text", [SECRET, f'["{SECRET}"]', f'"{SECRET}"', f'{{"a": "{SECRET}"'])
def test_damaged_stored_credentials_are_one_sentence_that_keeps_the_secret(
    home: Path, text: str
) -> None:
    store(home, text)
    with pytest.raises(UserError, match="damaged: run `earthengine authenticate` again") as caught:
        find(project="p")
    assert SECRET not in str(caught.value)


def test_stored_credentials_without_a_token_count_as_none(home: Path) -> None:
    store(home, "{}")
    with pytest.raises(UserError, match="no credentials"):
        find(project="p")


def test_a_variable_that_names_no_credentials_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADC_VARIABLE, str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=f"{ADC_VARIABLE} does not name a file of credentials"):
        find(project="p", GOOGLE_APPLICATION_CREDENTIALS="set")


def test_a_service_of_tokens_that_is_down_is_not_for_ever() -> None:
    assert isinstance(translate(RefreshError("503", retryable=True)), Transient)
    assert isinstance(translate(RefreshError("invalid_grant")), UserError)


def test_an_anonymous_client_that_is_not_let_in_is_told_to_sign_in() -> None:
    with pytest.raises(Exception, match="cannot be refreshed") as caught:
        AnonymousCredentials().refresh(None)
    assert isinstance(translate(caught.value), UserError)


@pytest.mark.parametrize("text", ["[]", "", '{"type": "external_account", "audience": "x"}', None])
def test_odd_default_credentials_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    path = tmp_path / "adc.json"
    path.mkdir() if text is None else path.write_text(text)
    monkeypatch.setenv(ADC_VARIABLE, str(path))
    with pytest.raises(UserError, match="does not name a file of"):
        find(GOOGLE_APPLICATION_CREDENTIALS=str(path))


def test_a_user_without_a_home_has_no_stored_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="run `earthengine authenticate` once"):
        find()


def test_a_project_of_a_key_that_is_no_text_is_named(private_key: str) -> None:
    with pytest.raises(UserError, match="is not the id of a Google Cloud project"):
        find(EARTHENGINE_SERVICE_ACCOUNT_KEY=key_text(private_key, project_id={"a": 1}))


@pytest.mark.parametrize(
    "url",
    [
        "http://earthengine.example.org",  # a token in the clear
        "http://127.0.0.1.example.org",
        "ftp://127.0.0.1",
        "127.0.0.1:8000",
        "https://",
        "https://example.org:port",
        "http://[",
        "",
    ],
)
def test_an_address_that_is_neither_encrypted_nor_on_this_machine_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"--ee_url .* is not an https:// address"):
        find(url, "my-project")


@pytest.mark.parametrize(
    "url",
    ["https://me:secret@example.org", "ftp://secret@x", "http://me:se/cret@127.0.0.1", "secret@"],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError, match="remove what is before the @") as caught:
        find(url, "my-project")
    assert "cret" not in str(caught.value)


def test_an_address_cannot_control_the_terminal() -> None:
    with pytest.raises(UserError, match="is not an https:// address"):
        find("http://localhost\n")


@pytest.mark.parametrize("project", ["../../x", "a b", "ü", "x\ny", "p" * 1000])
def test_what_cannot_be_a_project_is_named(project: str) -> None:
    with pytest.raises(UserError, match=r"--project .* is not the id of a Google Cloud project"):
        find("http://localhost", project)


def test_a_key_in_the_place_of_its_file_is_not_repeated() -> None:
    key = Path('{"type": "service_account", "private_key": "secret"}')
    with pytest.raises(
        UserError, match="is the text of a key: give the name of its file"
    ) as caught:
        find("http://localhost", key_file=key)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "way", ["file of the flag", "text of the variable", "file in the variable"]
)
def test_a_key_may_be_a_file_or_text(way: str, tmp_path: Path, private_key: str) -> None:
    path, text = tmp_path / "key.json", "\n " + key_text(private_key)
    path.write_text(text)
    variable = {} if way == "file of the flag" else {KEY_VARIABLE: str(path)}
    if way == "text of the variable":
        variable = {KEY_VARIABLE: text}
    credentials, project = find(key_file=path if way == "file of the flag" else None, **variable)
    assert isinstance(credentials, service_account.Credentials)
    assert credentials.service_account_email == "robot@example.com"
    assert project == "project-of-the-key"


@pytest.mark.parametrize(
    ("client", "expected"),
    [({}, ("own-client", "own-secret")), ({"client_id": "c", "client_secret": "s"}, ("c", "s"))],
)
def test_stored_credentials_have_their_client_or_that_of_the_command_line_tool(
    home: Path, client: dict[str, str], expected: tuple[str, str]
) -> None:
    stored = {"refresh_token": SECRET, "project": "stored", "scopes": ["x"]}
    store(home, json.dumps(stored | client))
    credentials, project = find()
    assert isinstance(credentials, Credentials)
    assert (credentials.client_id, credentials.client_secret) == expected
    assert (credentials.refresh_token, credentials.scopes) == (SECRET, ["x"])
    assert project == "stored"


@pytest.fixture
def key_path(server: EarthEngineServer, tmp_path: Path, private_key: str) -> Path:
    """A key whose tokens the server gives."""
    server.requests.clear()
    path = tmp_path / "key.json"
    path.write_text(key_text(private_key, f"{server.url}/token"))
    return path


@pytest.mark.parametrize("is_default", [False, True])
def test_the_client_works_with_a_key_and_with_default_credentials(
    server: EarthEngineServer, key_path: Path, monkeypatch: pytest.MonkeyPatch, is_default: bool
) -> None:
    if is_default:
        monkeypatch.setenv(ADC_VARIABLE, str(key_path))
    start(server, None if is_default else key_path)
    assert server.requests["/v1/projects/project-of-the-key/algorithms"] == 1
    assert server.requests["/token"] == 1


def test_a_token_that_ran_out_is_renewed(server: EarthEngineServer, key_path: Path) -> None:
    source = start(server, key_path)
    server.faults["check"].append(status(401))
    source.check()
    assert server.requests["/token"] == 2


def test_revoked_credentials_are_one_sentence_that_keeps_the_secret(
    server: EarthEngineServer, key_path: Path
) -> None:
    answer = {"error": "invalid_grant", "error_description": "SECRET has been revoked."}
    server.faults["/token"] = deque([content(json.dumps(answer).encode(), "text/json", 400)])
    with pytest.raises(UserError, match="expired or revoked: run `earthengine auth") as caught:
        start(server, key_path)
    assert server.requests["/token"] == 1  # not repeated
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
