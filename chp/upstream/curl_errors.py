"""What libcurl's error codes mean, in the words of the direct upstream."""

from __future__ import annotations

import errno

import pycurl

from chp.errors import UpstreamError
from chp.http1.target import Origin

_TLS = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_CACERT,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_CRL_BADFILE,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_SSL_ENGINE_INITFAILED,
        pycurl.E_PEER_FAILED_VERIFICATION,
    }
)
_BROKEN = frozenset({pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_SEND_FAIL_REWIND})
_ENDED = frozenset({pycurl.E_GOT_NOTHING, pycurl.E_PARTIAL_FILE})
# After these a request that was sent on an old connection may be sent again.
CONNECTION_LOST = _BROKEN | _ENDED


def upstream_error(origin: Origin, code: int, text: str, os_errno: int, *, connected: bool) -> UpstreamError:
    """Translate the end of a transfer that failed."""
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return UpstreamError("connect_timeout", f"connecting to {origin} timed out")
    if code in _TLS:
        return UpstreamError("tls", f"TLS with {origin} failed: {text}")
    if code in (pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_URL_MALFORMAT):
        return UpstreamError("dns", f"no address for {origin}: {text}")
    if not connected:
        if os_errno == errno.ECONNREFUSED:
            return UpstreamError("refused", f"connection refused by {origin}")
        return UpstreamError("unreachable", f"can't connect to {origin}: {text}")
    if code in _ENDED:
        return UpstreamError("closed", "the connection was closed before the response was complete")
    if code in _BROKEN:
        return UpstreamError("reset", f"the connection broke: {text}")
    return UpstreamError("invalid_response", f"invalid response: {text}")
