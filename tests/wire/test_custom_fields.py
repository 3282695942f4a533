"""Fields that the operator sets or removes, in requests and in responses."""

from __future__ import annotations

import pytest
from support.echo import MARK, answer, echo, request_at_backend
from support.wire import Message, Peer, backend, proxy
from traitlets import TraitError

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: s/1\r\nSet-Cookie: a\r\nx-frame-options: ALLOW\r\nA:\t1 \r\n"
    b"X-Powered-By: p\r\nserver: again\r\nContent-Length: 2\r\n\r\nok"
)
HSTS = "Strict-Transport-Security: max-age=31536000"


@pytest.mark.parametrize(
    ("removed", "custom", "sent", "block"),
    [
        (["x-a"], [], "X-A: 1\r\nB:\t2 \r\nx-A: 3\r\n", "B:\t2 \r\n" + MARK),
        (["X-A", "B"], [], "X-A: 1\r\nB: 2\r\nX-AB: 3\r\n", "X-AB: 3\r\n" + MARK),
        (["X-A"], ["x-a: ours", "C: 1"], "X-A: 1\r\n", MARK + "x-a: ours\r\nC: 1\r\n"),
        (["X-A"], [], "", MARK),
        (["cdn-loop"], [], "", ""),
        (["Cookie"], [], "Cookie: a\r\nCookie: b\r\nCookie2: c\r\n", "Cookie2: c\r\n" + MARK),
        (["*", "Ho*"], [], "A: 1\r\n*: 2\r\n", "A: 1\r\n" + MARK),  # a letter of names like any other
    ],
)
async def test_removed_from_requests(removed: list[str], custom: list[str], sent: str, block: str) -> None:
    options = {"remove_request_header": removed, "custom_header": custom, "x_forward": False}
    async with backend(echo) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect()
        for _ in range(2):
            await peer.send(f"GET / HTTP/1.1\r\nHost: h\r\n{sent}\r\n".encode())
            got = (await peer.receive_message()).content
            assert got == f"GET / HTTP/1.1\r\nHost: h\r\n{block}\r\n".encode()


async def test_the_proxys_own_fields_can_be_removed_from_requests() -> None:
    async with backend(echo) as server, proxy(server.url, remove_request_header=["X-Forwarded-Host"]) as chp:
        got = await request_at_backend(chp, b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-Host: x\r\n\r\n")
    assert got.value(b"x-forwarded-host") is None
    assert got.value(b"x-forwarded-for") == b"127.0.0.1"


@pytest.mark.parametrize(
    ("removed", "custom", "block"),
    [
        (["Server"], [], b"Set-Cookie: a\r\nx-frame-options: ALLOW\r\nA:\t1 \r\nX-Powered-By: p\r\n"),
        (
            ["SERVER", "x-powered-by"],
            [HSTS, "X-Frame-Options: DENY", "A: 2", "a: 3"],
            (
                b"Set-Cookie: a\r\nStrict-Transport-Security: max-age=31536000\r\n"
                b"X-Frame-Options: DENY\r\na: 3\r\n"
            ),
        ),
    ],
)
async def test_responses(removed: list[str], custom: list[str], block: bytes) -> None:
    options = {"remove_response_header": removed, "custom_response_header": custom}
    async with backend(answer(RESPONSE)) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect()
        for _ in range(2):
            await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await peer.receive_message()).head == (
                b"HTTP/1.1 200 OK\r\n" + block + b"Content-Length: 2\r\n\r\n"
            )


async def test_interim_responses_stay_as_they_are() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nServer: s\r\nLink: </a>\r\n\r\n"
    options = {"remove_response_header": ["Server", "Link"], "custom_response_header": [HSTS]}
    async with backend(answer(early + RESPONSE)) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await peer.receive_head() == early
        message = await peer.receive_message()
    assert (message.value(b"server"), message.value(b"strict-transport-security")) == (
        None,
        b"max-age=31536000",
    )


async def test_switching_protocols_too() -> None:
    async def switch(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nServer: s\r\n"
            b"Connection: Upgrade\r\nUpgrade: raw\r\n\r\nhello"
        )

    options = {"remove_response_header": ["Server"], "custom_response_header": ["X-A: 1"]}
    async with backend(switch) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        assert await peer.receive_head() == (
            b"HTTP/1.1 101 Switching Protocols\r\nX-A: 1\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
        )
        assert await peer.receive(5) == b"hello"


@pytest.mark.expect_log("404 GET /x")
async def test_answers_of_the_proxy_itself() -> None:
    options = {"remove_response_header": ["Date"], "custom_response_header": [HSTS, "Content-Type: x/y"]}
    async with proxy(**options) as chp:
        health = await chp.get("/_chp_healthz")
        missing = await chp.get("/x")
        _, refused = await chp.outcome(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert (health.status, missing.status) == (200, 404)
    for message in (health, missing, Message(refused.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")):
        assert message.value(b"strict-transport-security") == b"max-age=31536000"
        assert message.value(b"content-type") == b"x/y"
        assert message.value(b"date") is None
        assert message.value(b"content-length") is not None


@pytest.mark.expect_log("404 GET /x")
async def test_pages_of_an_error_target() -> None:
    async with (
        backend(answer(RESPONSE)) as server,
        proxy(error_target=server.url, custom_response_header=[HSTS]) as chp,
    ):
        message = await chp.get("/x")
    assert (message.status, message.content) == (404, b"ok")
    assert message.value(b"strict-transport-security") == b"max-age=31536000"


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "content-length", "Transfer-Encoding", "Upgrade", "TE", "Trailer", "Keep-Alive"),
        "Proxy-Connection",
    ],
)
@pytest.mark.parametrize(
    ("option", "rest"),
    [
        ("custom_response_header", ": 5"),
        ("remove_response_header", ""),
        ("remove_request_header", ""),
        ("custom_header", ": 5"),
    ],
)
async def test_framing_and_connections_can_not_be_changed(option: str, rest: str, name: str) -> None:
    with pytest.raises(TraitError, match=rf"header {name} would change how messages are framed"):
        async with proxy(**{option: [name + rest]}):
            pass
