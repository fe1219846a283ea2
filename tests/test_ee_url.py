"""Where the tokens of a user may go."""

import pytest

from datasets.ee_credentials import find_credentials
from utils.errors import UserError

CLIENT = ("identity", "word")


@pytest.mark.parametrize(
    "url",
    [
        "http://earthengine.example.org",  # a token in the clear
        "http://127.0.0.1.example.org",
        "http://localhost@example.org",
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
