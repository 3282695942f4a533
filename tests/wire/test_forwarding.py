"""The usual way of a request and its response, byte by byte."""

from __future__ import annotations

from support.wire import OK, backend, proxy


async def test_request_and_response_pass_unchanged_but_for_what_a_proxy_must_change() -> None:
    async with backend() as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"GET /a?b=c HTTP/1.1\r\nHost: h:1\r\naccept: x\r\nCookie: y\r\n\r\n")
        message = await peer.receive_message()
    assert message.head + message.content == OK
    assert server.all_received == (
        b"GET /a?b=c HTTP/1.1\r\nHost: h:1\r\naccept: x\r\nCookie: y\r\n"
        b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Port: 1\r\n"
        b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: h:1\r\n\r\n"
    )
