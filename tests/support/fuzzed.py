"""What holds whatever bytes come: each function gets some, and raises if it does not hold.

Hypothesis (``tests/fuzz/test_parsers.py``) and atheris (``make fuzz``) call them.
"""

from __future__ import annotations

import contextlib
import json
import logging
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import h11

from chp.config.settings import ProxySettings
from chp.errors import BadRequest, InvalidTarget
from chp.handlers.route_queries import parse_changes, parse_date, parse_route_data
from chp.http1.fields import END_OF_HEAD, parse_fields, write_fields
from chp.http1.framing import chunk
from chp.http1.head import RequestHead, ResponseHead
from chp.http1.location import rewrite_location
from chp.http1.request_target import outgoing_target, parse_request_target
from chp.http1.strict import parse_response_head
from chp.http1.target import Origin, Target
from chp.metrics import Metrics
from chp.runtime import Runtime
from chp.servers.parser import RequestParser
from chp.sockets import LONG
from chp.upstream.addresses import Resolver
from chp.upstream.attempts import Attempts
from chp.upstream.base import UpstreamRequest
from chp.upstream.direct import DirectStream, DirectUpstream
from chp.upstream.direct_connection import UpstreamConnection

LIMIT = 4096  # bytes of a head


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut data at these places, wherever they lie in it."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


# -- requests -----------------------------------------------------------------------------


class ReadRequest:
    """A request as the parser gave it."""

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.content = b""
        self.complete = False

    def __repr__(self) -> str:
        head = self.head
        shown = (head.method, head.target, head.host, head.block, head.content_length, head.chunked)
        return repr((*shown, head.upgrade, head.keep_alive, self.content, self.complete))


def read_requests(pieces: list[bytes] | list[memoryview]) -> tuple[list[ReadRequest], bool]:
    """Read requests as a client's connection does; also tell whether there was a bad one."""
    parser = RequestParser(LIMIT, LIMIT, 50)
    requests: list[ReadRequest] = []
    current: ReadRequest | None = None
    try:
        for piece in pieces:
            rest = piece
            while rest:
                if current is None:
                    head = parser.read_head(rest)
                    if head is None:
                        break
                    current = ReadRequest(head)
                    requests.append(current)
                    rest, parser.rest = parser.rest, b""
                    current.complete = parser.complete
                else:
                    current.content += parser.read_content(rest)
                    rest, parser.rest = parser.rest, b""
                    current.complete = parser.complete
                if current.complete:
                    if not current.head.keep_alive or current.head.upgrade:
                        return requests, False  # what follows belongs to nobody, or to a tunnel
                    current = None
                    parser.next_request()
    except BadRequest:
        return requests, True
    return requests, False


def check_requests(data: bytes, cuts: list[int]) -> None:
    """Where requests are cut makes no difference, and what is forwarded means the same to others."""
    pieces = pieces_of(data, cuts)
    check_cuts([data], pieces)
    # Content of such a length is not copied out of what was read.
    more = b"x" * (LONG - 1)
    check_cuts([data + more], [*pieces, more])


def check_cuts(one_read: list[bytes], pieces: list[bytes]) -> None:
    whole, bad = read_requests(one_read)
    parts, bad_parts = read_requests(pieces)
    # A limit may be seen before or after the rest of a request: what comes of it is never complete.
    if bad or bad_parts:
        whole = [request for request in whole if request.complete]
        parts = [request for request in parts if request.complete]
    assert repr(whole) == repr(parts), (whole, parts)
    for request in whole:
        if request.complete:
            check_forwarded(request)


def check_forwarded(request: ReadRequest) -> None:
    """h11 reads the forwarded request as one, with the same content."""
    head = request.head
    try:
        target = parse_request_target(head.method, head.target)
    except BadRequest:
        return
    outgoing = outgoing_target(target, None, cut_segments=0)
    stream = DirectStream(
        _new_upstream(),
        UpstreamRequest(
            Origin("http", "h", 80),
            head.method,
            outgoing,
            b"\r\nHost: " + (head.host or b"h") + head.block,
            content_length=head.content_length,
            chunked=head.chunked,
            upgrade=head.upgrade,
        ),
        _Receiver(),  # type: ignore[arg-type]
    )
    sent = stream.first_bytes(request.content, True)
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    other.receive_data(sent)
    other.receive_data(b"")
    events = []
    while True:
        event = other.next_event()
        if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
            break
        events.append(event)
        if isinstance(event, h11.EndOfMessage):
            break
    first = events[0]
    assert isinstance(first, h11.Request), sent
    assert (first.method, first.target) == (head.method, outgoing)
    content = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    assert content == request.content, sent
    assert isinstance(events[-1], h11.EndOfMessage), sent
    trailing, _ = other.trailing_data
    assert not trailing, sent


# -- responses ----------------------------------------------------------------------------


class _Transport:
    def __init__(self) -> None:
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def write(self, data: bytes) -> None:
        pass

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class _Receiver:
    """Keeps what an exchange would send on."""

    def __init__(self) -> None:
        self.interim: list[tuple[int, bytes]] = []
        self.head: tuple[int, bytes, int | None, bool] | None = None
        self.content = b""
        self.end = ""

    def informational(self, head: ResponseHead) -> None:
        assert not self.end
        assert self.head is None
        self.interim.append((head.status, head.block))

    def response_received(self, head: ResponseHead | None, content: bytes, complete: bool) -> None:
        assert not self.end
        assert (head is None) is (self.head is not None)
        if head is not None:
            self.head = head.status, head.block, head.content_length, head.chunked
        self.content += content
        if complete:
            self.end = "complete"

    def upgraded(self, head: ResponseHead, transport: Any, early: bytes) -> None:
        assert not self.end
        self.content += early
        self.end = "upgraded"

    def failed(self, error: Exception) -> None:
        assert not self.end
        self.end = "failed"


_LOOP: Any = SimpleNamespace(call_later=lambda *args: SimpleNamespace(cancel=lambda: None))
_RUNTIME = Runtime(_LOOP, Metrics(), logging.getLogger("chp"))
_SETTINGS = ProxySettings(max_head_size=LIMIT)


def _new_upstream() -> DirectUpstream:
    _RUNTIME.metrics = Metrics()
    return DirectUpstream(_RUNTIME, _SETTINGS, Attempts(_LOOP), Resolver(_LOOP))


def read_response(pieces: list[bytes], method: bytes, upgrade: bytes) -> tuple[_Receiver, int]:
    """Read a response as a connection to a target does, which ends behind it; how often was it kept?"""
    upstream = _new_upstream()
    transport, receiver = _Transport(), _Receiver()
    connection = UpstreamConnection(upstream, Origin("http", "h", 80))
    connection.connection_made(transport)  # type: ignore[arg-type]
    request = UpstreamRequest(connection.origin, method, b"/", b"\r\nHost: h", upgrade=upgrade)
    stream = DirectStream(upstream, request, receiver)  # type: ignore[arg-type]
    stream.sent = True
    connection.start(stream, b"")
    for piece in pieces:
        if transport.closing or receiver.end == "upgraded":
            break
        _RUNTIME.buffer[: len(piece)] = piece
        connection.buffer_updated(len(piece))
    if not transport.closing and receiver.end != "upgraded":
        connection.connection_ended(None)
    assert receiver.end
    return receiver, _RUNTIME.metrics.upstream_connections_idle


def check_response(data: bytes, cuts: list[int], method: bytes = b"GET", upgrade: bytes = b"") -> None:
    """Where a response is cut makes no difference, and what is passed on means the same to others."""
    whole, released = read_response([data] if data else [], method, upgrade)
    parts, _ = read_response([piece for piece in pieces_of(data, cuts) if piece], method, upgrade)
    # A response that fails may have been passed on up to there, or not.
    assert (whole.end == "failed") == (parts.end == "failed"), (vars(whole), vars(parts))
    if whole.end == "upgraded":
        assert whole.content.startswith(parts.content)  # the rest comes to the tunnel
    elif whole.end == "complete":
        assert vars(whole) == vars(parts), (vars(whole), vars(parts))
        check_passed_on(whole, method)
    assert released <= 1


def check_passed_on(response: _Receiver, method: bytes) -> None:
    assert response.head is not None
    status, block, length, _ = response.head
    if method == b"HEAD" or status in (204, 304):
        assert not response.content
        return
    if length is not None:
        assert len(response.content) == length
        block += b"\r\nContent-Length: %d" % length
        content = response.content
    else:
        block += b"\r\nTransfer-Encoding: chunked"
        content = (chunk(response.content) if response.content else b"") + b"0\r\n\r\n"
    other = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    other.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"h")]))
    other.send(h11.EndOfMessage())
    other.receive_data(b"HTTP/1.1 %d x" % status + block + END_OF_HEAD + content)
    received = b""
    while True:
        event = other.next_event()
        assert event is not h11.NEED_DATA, block
        if isinstance(event, h11.Data):
            received += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            break
    assert received == response.content
    assert not other.trailing_data[0]


def check_response_head(data: bytes) -> None:
    """The strict reader of heads takes nothing that llhttp refuses."""
    try:
        strict = parse_response_head(data)
    except ValueError:
        return
    if strict.status >= 200:
        method = b"HEAD"  # the head is the whole response
        response, _ = read_response([data], method, b"")
        assert response.end == "complete", data
        assert response.head == (strict.status, strict.block, strict.content_length, strict.chunked)


# -- the rest -----------------------------------------------------------------------------


def check_request_target(data: bytes) -> None:
    """A normal form is one: it stays as it is, and goes nowhere else than the path it was matched with."""
    try:
        requested = parse_request_target(b"GET", data)
    except BadRequest:
        return
    again = parse_request_target(b"GET", requested.path + b"?" + requested.query)
    assert again[:3] == requested[:3], (requested, again)
    assert not {".", ".."} & set(requested.decoded.split("/")[:-1]) or b"%2" in data, requested
    target = Target.parse("http://h/base?k=v")
    for segments in range(4):
        out = outgoing_target(requested, target, cut_segments=segments)
        assert out.startswith(b"/base"), out
        assert all(0x21 <= byte <= 0x7E for byte in out), out
        out = outgoing_target(requested, None, cut_segments=segments)
        assert out.startswith(b"/"), out


def check_texts(text: str) -> None:
    """What the API reads is refused with one of our own exceptions, or can be shown again."""
    with contextlib.suppress(InvalidTarget):
        target = Target.parse(text)
        assert target.url == text
        out = b"\r\nHost: " + target.host_field
        assert parse_fields(out) == [(b"Host", target.host_field)]
        assert b"\r" not in target.base_path + target.query
        assert b"\n" not in target.base_path + target.query
    with contextlib.suppress(ValueError):
        assert isinstance(parse_date(text), float)
    raw = text.encode("utf-8", "surrogatepass")
    for parse in (parse_route_data, parse_changes):
        with contextlib.suppress(BadRequest):
            json.dumps(parse(raw))


def check_location(data: bytes) -> None:
    """What may stand in a field still may after it was rewritten."""
    if b"\r" in data or b"\n" in data:
        return
    for host in (None, b"client:8000"):
        for protocol in (b"", b"https"):
            out = rewrite_location(data, b"target:81", host, protocol)
            assert parse_fields(write_fields([(b"Location", out)]))[0][1] == out.strip(b" \t")
