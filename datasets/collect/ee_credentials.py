"""Find Earth Engine credentials and project without prompting, and without showing a secret.

In this order: the key of a service account, what `earthengine authenticate` stored, the
application default credentials of Google Cloud.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google.auth
from ee import oauth
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import service_account
from google.oauth2.credentials import Credentials

from utils.errors import UserError, quoted
from utils.files import check_regular, read_file

KEY_VARIABLE, PROJECT_VARIABLE = "EARTHENGINE_SERVICE_ACCOUNT_KEY", "EARTHENGINE_PROJECT"
_ADC_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_SCOPES = [f"https://www.googleapis.com/auth/{name}" for name in ("earthengine", "cloud-platform")]
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
# What the readers of credentials raise for a file that is missing, damaged or of another kind.
_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, GoogleAuthError),
)


def find_credentials(url: str, project: str | None, key_file: Path | None) -> tuple[Any, str]:
    """Return credentials and project.

    Args:
        url: Address of the service; one on loopback needs no credentials.
        project: Project of the command line, else of the environment or of the credentials.
        key_file: File of the command line with a service account's key.

    Raises:
        UserError: There are none, or they are damaged.
    """
    is_loopback = _is_loopback(url)
    own_project: Any
    if key_file is not None or os.environ.get(KEY_VARIABLE):
        credentials, own_project = _service_account(key_file)
    elif is_loopback and _ADC_VARIABLE not in os.environ:
        credentials, own_project = AnonymousCredentials(), "loopback"
    else:
        credentials, own_project = _stored() or _default()
    project = project or os.environ.get(PROJECT_VARIABLE) or own_project
    if not isinstance(project, str) or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", project):
        raise UserError(
            "Earth Engine needs the id of a Google Cloud project that is registered for it, not "
            f"{quoted(str(project))}: give --project, or set {PROJECT_VARIABLE}"
        )
    return credentials, project


def _is_loopback(url: str) -> bool:
    """Return whether a URL is on this machine; tokens are sent elsewhere only encrypted."""
    try:
        parts = urlsplit(url)
        host, scheme, _ = parts.hostname or "", parts.scheme, parts.port
    except ValueError:
        host = scheme = ""
    is_loopback = host in _LOOPBACK
    is_safe = scheme == "https" or (scheme == "http" and is_loopback)
    if not (host and is_safe and url.isprintable()) or "@" in url:
        raise UserError(
            f"--ee_url {quoted(url.rpartition('@')[2])} is not the https:// address of a service "
            "(http:// works on loopback only), or has a password before it: correct it"
        )
    return is_loopback


def _service_account(key_file: Path | None) -> tuple[Any, Any]:
    """Read a key from a file, or from a variable that has its text or names its file."""
    variable = os.environ.get(KEY_VARIABLE, "")
    try:
        is_text = key_file is None and variable.lstrip().startswith("{")
        path = Path(key_file or variable)
        key = json.loads(variable if is_text else read_file(path))
        info = service_account.Credentials.from_service_account_info(key, scopes=_SCOPES)
    except _UNREADABLE:
        raise UserError(
            f"{'--service_account_key' if key_file else KEY_VARIABLE} is not a readable file with "
            "the key of a service account: download the key as JSON from Google Cloud, and give "
            "the name of its file"
        ) from None
    return info, key.get("project_id")


def _stored() -> tuple[Any, Any] | None:
    try:
        stored = oauth.get_credentials_arguments()
    except FileNotFoundError:
        return None
    except _UNREADABLE:
        raise UserError(
            f"{oauth.get_credentials_path()} is damaged: run `earthengine authenticate` again"
        ) from None
    project = stored.pop("quota_project_id")  # --project may name another one
    return (Credentials(None, **stored), project) if stored["refresh_token"] else None


def _default() -> tuple[Any, Any]:
    try:
        check_regular(Path(os.environ.get(_ADC_VARIABLE, "")))
        credentials, project = google.auth.default(scopes=_SCOPES)
    except _UNREADABLE:
        raise UserError(
            f"no credentials for Earth Engine were found, {_ADC_VARIABLE} included: run "
            "`earthengine authenticate` once, or give --service_account_key"
        ) from None
    return credentials, getattr(credentials, "quota_project_id", None) or project
