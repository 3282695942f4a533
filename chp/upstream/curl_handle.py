"""One easy handle of libcurl: configured once for its origin, then used for one request after another."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pycurl

from chp.config.settings import ClientTLS, ProxySettings
from chp.http1.target import Origin
from chp.upstream.addresses import ATTEMPT_DELAY, Addresses
from chp.upstream.base import UpstreamRequest

if TYPE_CHECKING:
    from chp.upstream.curl_client import CurlClient
    from chp.upstream.curl_stream import CurlStream

# Bytes that one read of a socket brings at the most, and the request's content that libcurl asks for at once.
_RECEIVE_SIZE = 64 * 1024
_SEND_SIZE = 64 * 1024
# What callbacks return: PREREQFUNC_OK is SOCKOPT_OK, PREREQFUNC_ABORT is SOCKOPT_ERROR.
_GO_ON: int = pycurl.PREREQFUNC_OK
_ABORT: int = pycurl.PREREQFUNC_ABORT
# Options of curl/curl.h for which pycurl, or its older versions, have no name.
_KEEP_SENDING_ON_ERROR = 245  # CURLOPT_KEEP_SENDING_ON_ERROR
_HAPPY_EYEBALLS_TIMEOUT_MS = 271  # CURLOPT_HAPPY_EYEBALLS_TIMEOUT_MS
_NO_PARTIALCHAIN = 4  # CURLSSLOPT_NO_PARTIALCHAIN

# What libcurl would add by itself.
_ACCEPT = re.compile(rb"\r\naccept:", re.IGNORECASE)
# An Expect that libcurl knew of would make it wait for 100, and send the request again after a 417,
# whatever its method. It looks at the beginning of each item only.
_UP_TO_EXPECT = re.compile(rb".*\r\nexpect:[^\r]*", re.IGNORECASE | re.DOTALL)
# libcurl takes "Name:" as "leave this out", and "Name;" as a field without a value.
_EMPTY_FIELD = re.compile(rb"(\r\n[^:\r]+):[ \t]*(?=\r\n|\Z)")


class CurlHandle:
    """An easy handle, and what was last set on it. Its callbacks go to the stream that it carries.

    libcurl calls them from inside its own functions: they collect, and leave
    the rest for when libcurl has returned.
    """

    __slots__ = (
        "_addresses",
        "_block",
        "_content",
        "_fresh",
        "_method",
        "_target",
        "client",
        "curl",
        "stream",
    )

    def __init__(self, client: CurlClient, origin: Origin, settings: ProxySettings) -> None:
        self.client = client
        self.stream: CurlStream | None = None
        self.curl = pycurl.Curl()
        self._method = b""
        self._target = b""
        self._block = b""
        self._content = (False, False)
        self._fresh = False
        self._addresses: Addresses = ()
        self._configure(origin, settings)

    def prepare(self, request: UpstreamRequest, *, fresh: bool) -> None:
        """Set what differs from the last request: each option costs as much as parsing a head."""
        curl = self.curl
        if request.method != self._method:
            self._method = request.method
            curl.setopt(pycurl.CUSTOMREQUEST, request.method)
        if request.target != self._target:
            self._target = request.target
            curl.setopt(pycurl.REQUEST_TARGET, request.target)
        uploads = request.chunked or bool(request.content_length)
        content = (uploads, request.method == b"HEAD")
        if content != self._content:
            self._content = content
            curl.setopt(pycurl.HTTPGET, 1)  # takes the others back
            if uploads:
                curl.setopt(pycurl.UPLOAD, 1)
            elif request.method == b"HEAD":
                curl.setopt(pycurl.NOBODY, 1)
        if uploads:
            length = request.content_length
            curl.setopt(pycurl.INFILESIZE_LARGE, -1 if length is None else length)
        block = request.block + request_framing(request)
        if block != self._block:
            self._block = block
            curl.setopt(pycurl.HTTPHEADER, _header_list(block))
        if fresh is not self._fresh:
            self._fresh = fresh
            curl.setopt(pycurl.FRESH_CONNECT, fresh)
        addresses = self.client.addresses
        if addresses is not self._addresses:
            self._addresses = addresses
            origin = request.origin
            curl.setopt(pycurl.RESOLVE, [f"{origin.host}:{origin.port}:{_address_list(addresses)}"])

    def close(self) -> None:
        self.curl.close()

    # -- called by libcurl -------------------------------------------------

    def _on_connected(self, *addresses: object) -> int:
        """libcurl has a connection and is about to send the request, perhaps a second time."""
        stream = self.stream
        if stream is None or not stream.begin_sending():
            return _ABORT
        return _GO_ON

    def _on_header(self, line: bytes) -> int | None:
        stream = self.stream
        if stream is None:
            return 0
        stream.lines.append(line)
        if not stream.touched:
            self.client.touch(stream)
        return None

    def _on_content(self, data: bytes) -> int | None:
        stream = self.stream
        return 0 if stream is None else stream.collect_content(data)

    def _on_send(self, size: int) -> bytes | int:
        stream = self.stream
        return b"" if stream is None else stream.next_content(size)

    def _on_socket(self, fd: int, purpose: int) -> int:
        """libcurl is about to connect, perhaps to send a request a second time."""
        stream = self.stream
        if stream is None or not stream.may_send():
            return _ABORT
        stream.connecting = True
        self.client.socket_opened(fd)
        return _GO_ON

    # -- private -----------------------------------------------------------

    def _configure(self, origin: Origin, settings: ProxySettings) -> None:
        curl = self.curl
        curl.setopt(pycurl.PREREQFUNCTION, self._on_connected)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_content)
        curl.setopt(pycurl.READFUNCTION, self._on_send)
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._on_socket)
        for option, value in _OPTIONS:
            curl.setopt(option, value)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(settings.connect_timeout * 1000)))
        # In whole seconds: an upper bound for connections beside others that are busy.
        curl.setopt(pycurl.MAXAGE_CONN, max(1, math.ceil(settings.pool_idle_timeout)))
        if not settings.pool_max_idle:
            curl.setopt(pycurl.FORBID_REUSE, 1)
        if origin.scheme == "unix":
            curl.setopt(pycurl.URL, "http://localhost/")
            curl.setopt(pycurl.UNIX_SOCKET_PATH, origin.host)
            return
        host = f"[{origin.host.replace('%', '%25')}]" if ":" in origin.host else origin.host
        curl.setopt(pycurl.URL, f"{origin.scheme}://{host}:{origin.port}/")
        if origin.tls:
            self._configure_tls(settings.client_tls_files)

    def _configure_tls(self, tls: ClientTLS) -> None:
        curl = self.curl
        # pycurl's wheels bring an OpenSSL of their own, which looks for authorities elsewhere.
        for option, path in ((pycurl.CAINFO, tls.ca_file), (pycurl.CAPATH, tls.ca_path)):
            if path:
                curl.setopt(option, path)
            else:
                curl.unsetopt(option)
        if tls.cert:
            curl.setopt(pycurl.SSLCERT, tls.cert)
            curl.setopt(pycurl.SSLKEY, tls.key or tls.cert)
            # Always a passphrase: without one, OpenSSL would ask for it on the terminal.
            curl.setopt(pycurl.KEYPASSWD, tls.passphrase or "-")
        curl.setopt(pycurl.SSL_VERIFYPEER, not tls.insecure)
        curl.setopt(pycurl.SSL_VERIFYHOST, 0 if tls.insecure else 2)
        # As Python does: only a chain up to a root is trusted.
        curl.setopt(pycurl.SSL_OPTIONS, _NO_PARTIALCHAIN)
        curl.setopt(pycurl.SSLVERSION, _MIN_VERSIONS[tls.min_version] | _MAX_VERSIONS.get(tls.max_version, 0))
        curl.setopt(pycurl.SSL_CIPHER_LIST, tls.ciphers)


def request_framing(request: UpstreamRequest) -> bytes:
    """Return the field that frames a request's content, as a block."""
    if request.content_length is not None:
        return b"\r\nContent-Length: %d" % request.content_length
    return b"\r\nTransfer-Encoding: chunked" if request.chunked else b""


def _address_list(addresses: Addresses) -> str:
    """Write addresses for libcurl, which knows none with a zone, such as ``fe80::1%eth0``."""
    hosts = [str(address.sockaddr[0]) for address in addresses]
    return ",".join([f"[{host}]" if ":" in host else host for host in hosts if "%" not in host])


def _header_list(block: bytes) -> list[bytes]:
    hidden = _UP_TO_EXPECT.match(block)
    items = [hidden[0][2:]] if hidden else []
    shown = block[hidden.end() :] if hidden else block
    items += _EMPTY_FIELD.sub(rb"\1;", shown).split(b"\r\n")[1:]
    if not _ACCEPT.search(block):
        items.append(b"Accept:")
    items.append(b"Expect:")
    return items


_OPTIONS: tuple[tuple[int, object], ...] = (
    (pycurl.NOSIGNAL, 1),
    (_HAPPY_EYEBALLS_TIMEOUT_MS, int(ATTEMPT_DELAY * 1000)),
    (pycurl.TCP_NODELAY, 1),
    # A host that vanished is noticed: seconds of silence, seconds between probes.
    (pycurl.TCP_KEEPALIVE, 1),
    (pycurl.TCP_KEEPIDLE, 60),
    (pycurl.TCP_KEEPINTVL, 15),
    # One request, as it came, to where the route points.
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
    (pycurl.HTTP09_ALLOWED, 0),
    (pycurl.PATH_AS_IS, 1),
    (pycurl.USERAGENT, ""),
    (pycurl.FOLLOWLOCATION, 0),
    (pycurl.NETRC, pycurl.NETRC_IGNORED),
    (pycurl.PROXY, ""),  # not from the environment
    (pycurl.NOPROXY, "*"),
    # Content passes as it is.
    (pycurl.HTTP_TRANSFER_DECODING, 0),
    (pycurl.HTTP_CONTENT_DECODING, 0),
    (pycurl.BUFFERSIZE, _RECEIVE_SIZE),
    (pycurl.UPLOAD_BUFFERSIZE, _SEND_SIZE),
    (_KEEP_SENDING_ON_ERROR, 1),
)

_MIN_VERSIONS = {
    "TLSv1": pycurl.SSLVERSION_TLSv1_0,
    "TLSv1_1": pycurl.SSLVERSION_TLSv1_1,
    "TLSv1_2": pycurl.SSLVERSION_TLSv1_2,
    "TLSv1_3": pycurl.SSLVERSION_TLSv1_3,
}
_MAX_VERSIONS = {
    "TLSv1": pycurl.SSLVERSION_MAX_TLSv1_0,
    "TLSv1_1": pycurl.SSLVERSION_MAX_TLSv1_1,
    "TLSv1_2": pycurl.SSLVERSION_MAX_TLSv1_2,
    "TLSv1_3": pycurl.SSLVERSION_MAX_TLSv1_3,
}
