"""Find Earth Engine credentials and project without prompting.

In this order: a service account's key (file, or text in the environment), the user's credentials
that `earthengine authenticate` stored, the application default credentials of Google Cloud.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google.auth
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import service_account
from google.oauth2.credentials import Credentials

from utils.errors import UserError, quoted

KEY_VARIABLE, PROJECT_VARIABLE = "EARTHENGINE_SERVICE_ACCOUNT_KEY", "EARTHENGINE_PROJECT"
_SCOPES = (
    "https://www.googleapis.com/auth/earthengine",
    "https://www.googleapis.com/auth/cloud-platform",
)
_KEY_FIELDS = ("private_key", "client_email", "token_uri")
_TOKEN_URI = "https://oauth2.googleapis.com/token"
_ADC_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_STORED = Path(".config/earthengine/credentials")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def find_credentials(
    url: str,
    project: str | None,
    key_file: Path | None,
    *,
    own_client: tuple[str, str],
    environment: Mapping[str, str] = os.environ,
) -> tuple[Any, str]:
    """Return credentials and project.

    Args:
        url: Address of the service; one on loopback needs no credentials.
        project: Project of the command line.
        key_file: File of the command line with a service account's key.
        own_client: Identity and secret of Earth Engine's command line tool, which its stored
            credentials do not repeat; neither is secret in fact.
        environment: Variables of the process.

    Raises:
        UserError: There are none, or they are damaged; their content is not shown.
    """
    is_loopback = _check_url(url)
    project = project or environment.get(PROJECT_VARIABLE) or None
    key = _read_key(key_file, environment.get(KEY_VARIABLE, ""))
    if key is not None:
        credentials = _service_account(key)
        project = project or key.get("project_id")
    elif is_loopback and _ADC_VARIABLE not in environment:
        credentials, project = AnonymousCredentials(), project or "loopback"
    else:
        credentials, stored_project = _stored(own_client) or _default(environment)
        project = project or stored_project
    if not project:
        raise UserError(
            "Earth Engine needs a Google Cloud project that is registered for it: give --project, "
            f"or set {PROJECT_VARIABLE}"
        )
    if not isinstance(project, str) or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", project):
        raise UserError(
            f"--project {quoted(str(project))} is not the id of a Google Cloud project: copy it "
            "from console.cloud.google.com"
        )
    return credentials, project


def _check_url(url: str) -> bool:
    """Return whether a URL is on this machine; tokens are sent elsewhere only encrypted."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        parts = urlsplit("")
    is_loopback = parts.hostname in _LOOPBACK
    _, user, host = url.rpartition("@")
    if user:
        raise UserError(
            f"--ee_url ...@{quoted(host)} is not an https:// address of a service alone: remove "
            "what is before the @"
        )
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback)
    if not (parts.hostname and is_safe and url.isprintable()):
        raise UserError(
            f"--ee_url {quoted(url)} is not an https:// address (http:// works on loopback "
            "only): correct it"
        )
    return is_loopback


def _read_key(key_file: Path | None, variable: str) -> dict[str, Any] | None:
    """Read a service account's key from a file, or from text that is the key or names its file."""
    if key_file is None and not variable:
        return None
    if "{" in str(key_file):
        raise UserError(
            "--service_account_key is the text of a key: give the name of its file, or set "
            f"{KEY_VARIABLE}"
        )
    name, text = f"--service_account_key {quoted(str(key_file))}", variable
    if key_file is None:
        name = KEY_VARIABLE
        key_file = None if variable.lstrip().startswith("{") else Path(variable)
    try:
        key = json.loads(text if key_file is None else key_file.read_bytes())
        if key["type"] != "service_account":
            raise ValueError("another type")
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): check the path") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{name} is not a service account's key: download one as JSON from Google Cloud"
        ) from None
    return dict(key)


def _service_account(key: dict[str, Any]) -> Any:
    try:
        if not all(isinstance(key[name], str) for name in _KEY_FIELDS):
            raise TypeError("no text")
        return service_account.Credentials.from_service_account_info(key, scopes=_SCOPES)
    except (ValueError, GoogleAuthError, TypeError, KeyError):
        raise UserError(
            "the service account's key is damaged: download it again from Google Cloud"
        ) from None


def _stored(own_client: tuple[str, str]) -> tuple[Any, str | None] | None:
    """Read what `earthengine authenticate` wrote."""
    try:
        path = Path.home() / _STORED
    except RuntimeError:  # a user without a home
        return None
    try:
        stored = json.loads(path.read_bytes())
        token = stored.get("refresh_token")
    except OSError:
        return None
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged: run `earthengine authenticate` again") from None
    if not token:
        return None
    credentials = Credentials(
        None,
        refresh_token=token,
        token_uri=_TOKEN_URI,
        client_id=stored.get("client_id", own_client[0]),
        client_secret=stored.get("client_secret", own_client[1]),
        scopes=stored.get("scopes"),
    )
    return credentials, stored.get("project")


def _default(environment: Mapping[str, str]) -> tuple[Any, str | None]:
    """Ask Google's library for credentials of the environment or the machine."""
    try:
        credentials, project = google.auth.default(scopes=_SCOPES)
    except (GoogleAuthError, OSError, ValueError, KeyError, TypeError, AttributeError):
        if _ADC_VARIABLE in environment:
            raise UserError(
                f"{_ADC_VARIABLE} does not name a file of credentials: correct it, or unset it"
            ) from None
        raise UserError(
            "no credentials for Earth Engine were found: run `earthengine authenticate` once, or "
            "give --service_account_key"
        ) from None
    return credentials, getattr(credentials, "quota_project_id", None) or project
