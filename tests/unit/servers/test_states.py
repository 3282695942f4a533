"""The states of a client's connection and of an exchange: a table, and illegal moves raise."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from chp.config.settings import ProxySettings
from chp.errors import UpstreamError
from chp.handlers import proxy
from chp.handlers.errors import ErrorPages
from chp.handlers.proxy import Exchange, ProxyHandler
from chp.http1.head import RequestHead, ResponseHead
from chp.metrics import Metrics
from chp.runtime import Runtime
from chp.servers import connection
from chp.servers.connection import ClientConnection

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written; does what it is told at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = b""
        self.reading = True
        self.end = ""

    def write(self, data: Any) -> None:
        assert not self.end, "written behind the end"
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return bool(self.end)

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.end = self.end or "close"

    def abort(self) -> None:
        self.end = "abort"


class Handler:
    """Keeps the exchanges; answers nothing by itself."""

    def __init__(self) -> None:
        self.requests: list[tuple[RequestHead, bytes, bool]] = []

    def handle(self, connection: Any, head: RequestHead, content: bytes, complete: bool) -> Any:
        self.requests.append((head, content, complete))
        return SimpleNamespace(
            content_received=lambda content, complete: self.requests.append((head, content, complete)),
            client_gone=lambda: None,
            response_begun=False,
        )


def new_runtime() -> Runtime:
    """A runtime whose time stands still."""
    loop: Any = SimpleNamespace(call_later=lambda delay, callback: None)
    return Runtime(loop, Metrics(), logging.getLogger("chp.test"))


class Client:
    """A connection without a socket."""

    def __init__(self) -> None:
        self.runtime = new_runtime()
        self.handler = Handler()
        self.transport = Transport()
        server: Any = SimpleNamespace(draining=False, opened=lambda it: None, forget=lambda it: None)
        handler: Any = self.handler
        self.connection = ClientConnection(server, handler, self.runtime, ProxySettings(), b"")
        self.runtime.clients.opened(b"")
        self.connection.connection_made(self.transport)

    def receive(self, data: bytes) -> None:
        self.runtime.view[: len(data)] = data
        self.connection.buffer_updated(len(data))


@pytest.mark.parametrize("moves", [connection._MOVES, proxy._MOVES], ids=["connection", "exchange"])
def test_the_tables_are_whole(moves: dict[str, frozenset[str]]) -> None:
    first = next(iter(moves))
    reached, ahead = {first}, [first]
    while ahead:
        new = moves[ahead.pop()] - reached
        reached |= new
        ahead += new
    assert reached == set(moves)
    assert any(not targets for targets in moves.values()), "no state is an end"


def test_a_connection_can_not_be_detached_between_requests() -> None:
    client = Client()
    with pytest.raises(RuntimeError, match="can't go from head to detached"):
        client.connection.detach()


def test_a_connection_can_not_be_detached_in_the_middle_of_content() -> None:
    client = Client()
    client.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
    with pytest.raises(RuntimeError, match="can't go from content to detached"):
        client.connection.detach()


def test_a_connection_is_detached_only_once() -> None:
    client = Client()
    client.receive(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly")
    assert client.connection.detach() == (client.transport, b"early")
    with pytest.raises(RuntimeError, match="can't go from detached to detached"):
        client.connection.detach()


def test_a_closed_connection_stays_closed() -> None:
    client = Client()
    client.receive(GET)
    client.connection.connection_lost(None)
    client.connection.send(b"x")
    client.connection.response_complete(True)
    client.connection.abort("again")
    client.connection.shut_down(force=True)
    assert client.transport.written == b""
    assert client.runtime.metrics.client_connections_closed == {"client_closed": 1}
    with pytest.raises(RuntimeError, match="can't go from closed to detached"):
        client.connection.detach()


def test_a_request_waits_for_the_answer_to_the_one_before() -> None:
    client = Client()
    client.receive(GET + GET.replace(b"/ ", b"/2 "))
    assert [head.target for head, _, _ in client.handler.requests] == [b"/"]
    client.connection.send(b"one")
    client.connection.response_complete(True)
    assert [head.target for head, _, _ in client.handler.requests] == [b"/", b"/2"]


def test_reading_stops_when_a_client_is_far_ahead_and_begins_again() -> None:
    client = Client()
    client.receive(GET)
    client.receive(b"x" * 65_000)
    assert client.transport.reading
    client.receive(b"x" * 1000)
    assert not client.transport.reading


def test_reading_stops_while_the_upstream_is_slow() -> None:
    client = Client()
    client.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
    client.connection.pause_request()
    assert not client.transport.reading
    client.connection.resume_request()
    assert client.transport.reading


def test_content_is_passed_on_up_to_its_end_and_no_further() -> None:
    client = Client()
    client.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
    client.receive(b"lloGET /2 HTTP/1.1\r\n")
    assert [(content, complete) for _, content, complete in client.handler.requests] == [
        (b"he", False),
        (b"llo", True),
    ]


def new_exchange() -> tuple[Exchange, Client]:
    """Make the exchange of a client that has sent a request."""
    runtime, settings = new_runtime(), ProxySettings()
    # The error target never answers.
    upstream: Any = SimpleNamespace(open=lambda *request: SimpleNamespace(abort=lambda: None))
    pages = ErrorPages(runtime, upstream, error_path="", error_target="http://127.0.0.1")
    table: Any = SimpleNamespace(link=None)
    health: Any = None
    handler = ProxyHandler(runtime, settings, table, upstream, pages, health)
    client = Client()
    client.receive(GET)
    exchange = Exchange(handler, client.connection, client.handler.requests[0][0])
    client.connection._exchange = exchange
    return exchange, client


def response(length: int) -> ResponseHead:
    head = ResponseHead(200, b"OK", b"")
    head.content_length = length
    return head


def test_an_exchange_is_answered_only_once() -> None:
    exchange, client = new_exchange()
    exchange.response_received(response(2), b"ok", True)
    assert client.connection._state == "head"
    assert exchange.over
    with pytest.raises(RuntimeError, match="can't go from done to responding"):
        exchange.response_received(response(2), b"ok", True)
    with pytest.raises(RuntimeError, match="can't go from done to refused"):
        exchange.refuse(503, "")
    with pytest.raises(RuntimeError, match="can't go from done to done"):
        exchange.send_local(200, b"", b"text/plain")


@pytest.mark.expect_log("503 GET / x")
def test_a_refused_exchange_is_not_refused_again() -> None:
    exchange, _ = new_exchange()
    exchange.refuse(503, "x")
    with pytest.raises(RuntimeError, match="can't go from refused to refused"):
        exchange.refuse(404, "")


@pytest.mark.expect_log("Response to GET / cut: gone")
def test_an_exchange_that_fails_in_its_response_is_cut_once() -> None:
    exchange, client = new_exchange()
    exchange.response_received(response(2), b"o", False)
    exchange.failed(UpstreamError("closed", "gone"))
    exchange.failed(UpstreamError("closed", "gone"))
    exchange.client_gone()
    assert (client.connection.close_reason, client.transport.end) == ("upstream_failed", "abort")
    assert exchange.over


def test_an_exchange_whose_client_is_gone_says_nothing_more() -> None:
    exchange, client = new_exchange()
    exchange.client_gone()
    exchange.failed(UpstreamError("closed", "gone"))
    exchange.send_local(200, b"", b"text/plain")
    assert (client.transport.written, client.transport.end) == (b"", "")


def test_there_is_no_tunnel_to_a_client_whose_loss_is_about_to_be_told() -> None:
    """Over TLS, that goes to the protocol that the transport had when the connection broke."""
    exchange, _ = new_exchange()
    client = Client()
    client.receive(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    exchange._connection = client.connection
    client.connection._exchange = exchange
    client.transport.abort()
    upstream: Any = Transport()
    exchange.upgraded(ResponseHead(101, b"Switching Protocols", b""), upstream, b"early")
    client.connection.connection_lost(ConnectionResetError())
    assert upstream.end == "abort"
    assert exchange.over
    assert client.runtime.clients.total == 0
    assert client.runtime.metrics.tunnels == 0
