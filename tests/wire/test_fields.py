"""Field lines of requests and responses: what passes, what goes, what is added."""

from __future__ import annotations

import pytest
from support.echo import MARK, answer, echo, request_at_backend
from support.wire import END_OF_HEAD, Message, Peer, backend, proxy
from traitlets import TraitError


def request(fields: str, host: str = "h") -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1")


def forwarded(message: Message) -> dict[bytes, bytes]:
    """Return the X-Forwarded fields of a request: For, Port, Proto and Host."""
    return {name[12:]: value for name, value in message.fields if name.startswith(b"X-Forwarded-")}


async def test_end_to_end_fields_pass_in_order_and_as_they_are() -> None:
    fields = (
        "Zeta: 1\r\nalpha: a,  b\r\nCOOKIE: x\r\nCookie: y\r\nEmpty:\r\nX:\tz \r\nO: \xe9\xff\r\nzeta: 2\r\n"
    )
    async with backend(echo) as server, proxy(server.url, x_forward=False) as chp:
        assert (await request_at_backend(chp, request(fields))).head == request(fields + MARK)


async def test_nothing_is_added_but_x_forwarded() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        got = await request_at_backend(chp, request(""))
    assert got.head == (
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Port: 80\r\n"
        b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n\r\n"
    )


async def test_fields_for_one_connection_do_not_pass() -> None:
    async with backend(echo) as server, proxy(server.url, x_forward=False) as chp:
        got = await request_at_backend(
            chp,
            request(
                "Connection: keep-alive, X-One\r\nx-one: 1\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n"
                "TE: trailers\r\nTrailer: X\r\nUpgrade: x\r\nKept: 1\r\nconnection: X-TWO,,\r\nX-Two: 2\r\n"
                "Proxy-Authorization: a\r\n"
            ),
        )
    assert got.head == request("Kept: 1\r\nProxy-Authorization: a\r\n" + MARK)


async def test_connection_can_take_away_neither_host_nor_x_forwarded() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        got = await request_at_backend(
            chp,
            request("Connection: host, x-forwarded-for, x-forwarded-host\r\nX-Forwarded-For: 9.9.9.9\r\n"),
        )
    assert got.value(b"host") == b"h"
    assert forwarded(got)[b"For"] == b"9.9.9.9,127.0.0.1"
    assert forwarded(got)[b"Host"] == b"h"


@pytest.mark.parametrize(
    ("host", "port"),
    [("h", b"80"), ("h:8000", b"8000"), ("[::1]", b"80"), ("[::1]:81", b"81"), ("h:", b"80"), ("", b"80")],
)
async def test_x_forwarded_port_is_that_of_host(host: str, port: bytes) -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        got = forwarded(await request_at_backend(chp, request("", host)))
    expected = {b"For": b"127.0.0.1", b"Port": port, b"Proto": b"http", b"Host": host.encode()}
    assert got == {name: value for name, value in expected.items() if value}


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("X-Forwarded-For: 1.2.3.4", {b"For": b"1.2.3.4,127.0.0.1"}),
        ("x-forwarded-for: 1.2.3.4, 5.6.7.8", {b"For": b"1.2.3.4, 5.6.7.8,127.0.0.1"}),
        ("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8", {b"For": b"1.2.3.4, 5.6.7.8,127.0.0.1"}),
        ("X-Forwarded-For:", {b"For": b"127.0.0.1"}),
        ("X-Forwarded-Port: 443", {b"Port": b"443,80"}),
        ("X-Forwarded-Proto: https", {b"Proto": b"https,http"}),
        ("X-Forwarded-Host: outer", {b"Host": b"outer"}),
        ("X-Forwarded-Host:", {b"Host": b"h"}),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-For: ::1\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: 1",
            {b"For": b"::1,127.0.0.1", b"Port": b"1,80", b"Proto": b"https,http", b"Host": b"a"},
        ),
    ],
)
async def test_x_forwarded_values_of_the_client_come_first(sent: str, got: dict[bytes, bytes]) -> None:
    default = {b"For": b"127.0.0.1", b"Port": b"80", b"Proto": b"http", b"Host": b"h"}
    async with backend(echo) as server, proxy(server.url) as chp:
        assert forwarded(await request_at_backend(chp, request(sent + "\r\n"))) == {**default, **got}


async def test_without_x_forward_the_values_of_the_client_pass_alone() -> None:
    async with backend(echo) as server, proxy(server.url, x_forward=False) as chp:
        got = await request_at_backend(
            chp, request("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Server: s\r\n")
        )
    assert forwarded(got) == {b"For": b"1.2.3.4", b"Proto": b"https", b"Server": b"s"}


async def test_http10_request_without_host_gets_the_targets() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        got = await request_at_backend(chp, b"GET / HTTP/1.0\r\n\r\n")
    assert got.start == b"GET / HTTP/1.1"
    assert got.value(b"host") == server.url.partition("//")[2].encode()
    assert forwarded(got) == {b"For": b"127.0.0.1", b"Port": b"80", b"Proto": b"http"}


async def test_change_origin_sends_the_targets_host_and_keeps_x_forwarded_host() -> None:
    async with backend(echo) as server, proxy(server.url, change_origin=True) as chp:
        got = await request_at_backend(chp, request("", "outer:81"))
    assert got.values(b"host") == [server.url.partition("//")[2].encode()]
    assert forwarded(got)[b"Host"] == b"outer:81"
    assert forwarded(got)[b"Port"] == b"81"


@pytest.mark.parametrize(
    ("custom", "sent", "block"),
    [
        (["X-A: 1"], "", MARK + "X-A: 1\r\n"),
        (["X-A: 1", "X-B:2"], "X-C: 3\r\n", "X-C: 3\r\n" + MARK + "X-A: 1\r\nX-B: 2\r\n"),
        (["X-A: 1"], "x-a: client\r\nX-C: 3\r\nX-A: again\r\n", "X-C: 3\r\n" + MARK + "X-A: 1\r\n"),
        (["X-A: 1", "x-a: 2"], "X-A: client\r\n", MARK + "x-a: 2\r\n"),
        (["X-A: a: b"], "", MARK + "X-A: a: b\r\n"),
        (["Authorization: token x"], "Authorization: token y\r\n", MARK + "Authorization: token x\r\n"),
    ],
)
async def test_custom_headers_replace_the_clients(custom: list[str], sent: str, block: str) -> None:
    async with backend(echo) as server, proxy(server.url, x_forward=False, custom_header=custom) as chp:
        assert (await request_at_backend(chp, request(sent))).head == request(block)


async def test_custom_headers_replace_host_and_x_forwarded() -> None:
    custom = ["Host: inner", "X-Forwarded-Proto: https"]
    async with backend(echo) as server, proxy(server.url, custom_header=custom) as chp:
        got = await request_at_backend(chp, request("X-Forwarded-Proto: ftp\r\n"))
    assert got.values(b"host") == [b"inner"]
    assert got.values(b"x-forwarded-proto") == [b"https"]
    assert got.values(b"x-forwarded-host") == [b"h"]


async def test_expect_is_answered_by_the_upstream() -> None:
    async def script(peer: Peer) -> None:
        head = await peer.receive_head()
        assert b"\r\nExpect: 100-continue\r\n" in head
        await peer.send(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n")
        assert await peer.receive(2) == b"ab"
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with backend(script) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await peer.receive_head() == b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"
        await peer.send(b"ab")
        assert (await peer.receive_message()).status == 200


async def test_response_fields_pass_in_order_and_as_they_are() -> None:
    block = (
        b"\r\nSet-Cookie: a=b\r\nServer: s\r\nset-cookie: c=d\r\nEmpty:\r\nX:\ty \r\nObs: \xe9\r\nDate: never"
    )
    async with (
        backend(answer(b"HTTP/1.1 200 OK" + block + b"\r\nContent-Length: 0\r\n\r\n")) as server,
        proxy(server.url) as chp,
    ):
        message = await chp.get()
    assert message.head == b"HTTP/1.1 200 OK" + block + b"\r\nContent-Length: 0\r\n\r\n"


async def test_response_fields_for_one_connection_do_not_pass() -> None:
    response = (
        b"HTTP/1.1 200 OK\r\nConnection: X-One, keep-alive\r\nX-One: 1\r\nKeep-Alive: timeout=1\r\n"
        b"Proxy-Connection: x\r\nTrailer: X\r\nTE: x\r\nUpgrade: h2c\r\nKept: 1\r\nConnection: x-two\r\n"
        b"X-TWO: 2\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok"
    )
    async with backend(answer(response)) as server, proxy(server.url) as chp:
        message = await chp.get()
    assert message.head == (
        b"HTTP/1.1 200 OK\r\nKept: 1\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\n"
    )


@pytest.mark.parametrize(
    "status_line", [b"200 ", b"200 Fine, thanks", b"299 \xe9", b"404 Nope", b"599 X", b"418 t  p"]
)
async def test_status_and_reason_pass(status_line: bytes) -> None:
    response = b"HTTP/1.1 " + status_line + b"\r\nContent-Length: 0\r\n\r\n"
    async with backend(answer(response)) as server, proxy(server.url) as chp:
        assert (await chp.get()).head == response


async def test_reason_may_be_missing_with_its_space() -> None:
    async with (
        backend(answer(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n")) as server,
        proxy(server.url) as chp,
    ):
        assert (await chp.get()).start == b"HTTP/1.1 200 "


async def test_informational_responses_pass_in_order() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with backend(answer(early + b"HTTP/1.1 102 P\r\n\r\n" + final)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(request(""))
        for expected in (early, b"HTTP/1.1 102 P" + END_OF_HEAD):
            assert await peer.receive_head() == expected
        assert await peer.receive(len(final)) == final
        assert chp.app.metrics.requests_proxy == {200: 1}


async def test_http10_clients_get_no_informational_response() -> None:
    response = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with backend(answer(response)) as server, proxy(server.url) as chp:
        _, received = await chp.outcome(b"GET / HTTP/1.0\r\n\r\n")
    assert received == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.mark.parametrize(
    "line", ["Content-Length: 5", "Transfer-Encoding: chunked", "connection: close", "Upgrade: x"]
)
async def test_custom_headers_can_not_change_the_framing(line: str) -> None:
    with pytest.raises(TraitError):
        async with proxy(custom_header=[line]):
            pass
