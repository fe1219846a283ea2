"""Where the tokens of a user may go."""

from pathlib import Path

import pytest

from datasets.collect.ee_credentials import find_credentials
from utils.errors import UserError

CLIENT = ("identity", "word")


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
    with pytest.raises(UserError, match=r"--ee_url .* is no https:// address"):
        find_credentials(url, "my-project", None, own_client=CLIENT, environment={})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost", "https://[::1]:1"])
def test_loopback_needs_neither_credentials_nor_a_project(url: str) -> None:
    credentials, project = find_credentials(url, None, None, own_client=CLIENT, environment={})
    assert (credentials.token, project) == (None, "loopback")


@pytest.mark.parametrize(
    "url",
    ["https://me:secret@example.org", "ftp://secret@x", "http://me:se/cret@127.0.0.1", "secret@"],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError, match="take out what is before the @") as caught:
        find_credentials(url, "my-project", None, own_client=CLIENT, environment={})
    assert "cret" not in str(caught.value)


def test_an_address_cannot_control_the_terminal() -> None:
    with pytest.raises(UserError, match="is no https:// address"):
        find_credentials("http://localhost\n", None, None, own_client=CLIENT, environment={})


@pytest.mark.parametrize("project", ["../../x", "a b", "ü", "x\ny", "p" * 1000])
def test_what_cannot_be_a_project_is_named(project: str) -> None:
    with pytest.raises(UserError, match=r"--project .* is no id of a Google Cloud project"):
        find_credentials("http://localhost", project, None, own_client=CLIENT, environment={})


def test_a_key_in_the_place_of_its_file_is_not_repeated() -> None:
    key = Path('{"type": "service_account", "private_key": "secret"}')
    with pytest.raises(
        UserError, match="is the text of a key: give the name of its file"
    ) as caught:
        find_credentials("http://localhost", None, key, own_client=CLIENT, environment={})
    assert "secret" not in str(caught.value)
