"""The secret of the REST API, as the environment gives it to the proxy and to the Hub."""

from __future__ import annotations

import os

from chp.config.files import read_text
from chp.errors import ConfigError


def token_from_environment() -> str:
    """Return CONFIGPROXY_AUTH_TOKEN, or the content of CONFIGPROXY_AUTH_TOKEN_FILE, or nothing.

    Raises :class:`ConfigError`.
    """
    token = os.environ.get("CONFIGPROXY_AUTH_TOKEN", "")
    path = os.environ.get("CONFIGPROXY_AUTH_TOKEN_FILE", "")
    if not path:
        return token
    if token:
        both = "CONFIGPROXY_AUTH_TOKEN and CONFIGPROXY_AUTH_TOKEN_FILE"
        raise ConfigError(f"{both} are both set. Pick one.")
    token = read_text("CONFIGPROXY_AUTH_TOKEN_FILE", path).strip()
    if not token:  # no open API because of a file that is not written yet
        raise ConfigError(f"CONFIGPROXY_AUTH_TOKEN_FILE: {path} is empty")
    return token
