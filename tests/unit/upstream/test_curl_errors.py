"""Failures of libcurl in the words that the direct upstream has for them."""

from __future__ import annotations

import errno

import pycurl
import pytest

from chp.http1.target import Origin
from chp.upstream.curl_errors import upstream_error

ORIGIN = Origin("https", "h", 1)


@pytest.mark.parametrize(
    ("code", "os_errno", "connected", "reason"),
    [
        (pycurl.E_OPERATION_TIMEDOUT, 0, False, "connect_timeout"),
        (pycurl.E_COULDNT_RESOLVE_HOST, 0, False, "dns"),
        (pycurl.E_URL_MALFORMAT, 0, False, "dns"),
        (pycurl.E_COULDNT_CONNECT, errno.ECONNREFUSED, False, "refused"),
        (pycurl.E_COULDNT_CONNECT, errno.EHOSTUNREACH, False, "unreachable"),
        (pycurl.E_COULDNT_CONNECT, 0, False, "unreachable"),
        (pycurl.E_SSL_CONNECT_ERROR, 0, False, "tls"),
        (pycurl.E_PEER_FAILED_VERIFICATION, 0, False, "tls"),
        (pycurl.E_SSL_CERTPROBLEM, 0, False, "tls"),
        (pycurl.E_GOT_NOTHING, 0, True, "closed"),
        (pycurl.E_PARTIAL_FILE, 0, True, "closed"),
        (pycurl.E_SEND_ERROR, errno.EPIPE, True, "reset"),
        (pycurl.E_RECV_ERROR, errno.ECONNRESET, True, "reset"),
        (pycurl.E_UNSUPPORTED_PROTOCOL, 0, True, "invalid_response"),
        (pycurl.E_FTP_WEIRD_SERVER_REPLY, 0, True, "invalid_response"),
    ],
)
def test_reasons(code: int, os_errno: int, connected: bool, reason: str) -> None:
    error = upstream_error(ORIGIN, code, "text of libcurl", os_errno, connected=connected)
    assert error.reason == reason
