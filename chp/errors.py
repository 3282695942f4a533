"""The exceptions that pass from one room of the program to another.

No ``OSError``, ``ssl.SSLError`` or parser exception leaves the module that
called the library which raised it: it is translated there, once, to one of
these.
"""

from __future__ import annotations

_MAX_SHOWN = 80  # characters


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line, for a log or an operator; empty if it has none."""
    return " ".join(str(error).split())


def shortened(text: str) -> str:
    """Return a value for a line, without its middle if it is long."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:20]}...{text[-20:]} ({len(text)} characters)"


class ChpError(Exception):
    """Base of everything that ``chp`` raises on purpose."""


class ConfigError(ChpError):
    """An option can't be used; the text is the one line that the operator reads."""


class InvalidTarget(ChpError, ValueError):
    """A route's target is no URL that can be proxied to."""


class BadRequest(ChpError):
    """A request that can't be forwarded safely.

    ``status`` is the response's status code (400, 431, 501 ...); the text is
    its reason, and holds nothing of the request but field names. ``limit`` is
    the option that the request goes beyond, if it is that.
    """

    def __init__(self, reason: str, status: int = 400, *, limit: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.limit = limit


class LoopDetected(ChpError):
    """A request has passed proxies like this too often: some target leads back to where it came from."""


class StorageError(ChpError):
    """A route store can't be loaded, or did not do what it was asked for."""


class UpstreamError(ChpError):
    """An exchange with an upstream failed.

    ``reason`` is a short, fixed word for metrics (``refused``, ``timeout``,
    ``closed``, ``invalid_response`` ...); the text is for the log.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ApiError(ChpError):
    """A request to the REST API of a proxy failed; ``status`` is the answer's, or 599 without an answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
