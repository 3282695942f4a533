"""The options of docs/edge.md, all at once, on the installed command."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from support.commands import Proxy, running
from support.echo import echo
from support.wire import Message, Peer, backend

OPTIONS = (
    *("--proxy-protocol", "--trusted-proxies", "127.0.0.0/8, unix:"),
    *("--custom-response-header", "Strict-Transport-Security: max-age=5"),
    *("--remove-request-header", "X-Remote-User", "--remove-response-header=Server"),
    *("--request-id-header", "X-Request-ID", "--access-log", "-", "--access-log-format=json"),
)


async def test_the_options_of_the_edge_together(tmp_path: Path) -> None:
    async with backend(echo) as server:
        with running(Proxy(tmp_path, "--default-target", server.url, *OPTIONS)) as proxy:
            host, _, port = proxy.url.removeprefix("http://").partition(":")
            peer = Peer(*await asyncio.open_connection(host, int(port)))
            await peer.send(
                b"PROXY TCP4 203.0.113.7 10.0.0.1 5678 80\r\nGET /a?token=secret HTTP/1.1\r\nHost: h\r\n"
                b"X-Remote-User: root\r\nX-Forwarded-For: 9.9.9.9\r\nX-Request-ID: mine\r\n\r\n"
            )
            message = await peer.receive_message()
            await peer.close()
            assert proxy.stop() == 0
            (line,) = [line for line in proxy.log.splitlines() if line.startswith("{")]
            assert "secret" not in proxy.log
    got = Message(message.content)
    assert got.value(b"x-forwarded-for") == b"203.0.113.7"
    assert got.value(b"x-remote-user") is None
    assert message.value(b"strict-transport-security") == b"max-age=5"
    request_id = (message.value(b"x-request-id") or b"").decode()
    assert len(request_id) == 32
    assert got.value(b"x-request-id") == request_id.encode()
    record = json.loads(line)
    names = ("client", "path", "status", "end", "request_id")
    assert [record[name] for name in names] == ["203.0.113.7", "/a", 200, "complete", request_id]
