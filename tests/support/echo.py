"""A backend that answers each request with the request itself: what it got is what the client sees."""

from __future__ import annotations

from support.wire import END_OF_HEAD, Message, Peer, Proxy, Script

# What the proxy adds to requests whose X-Forwarded-* can't tell the target that they come from a proxy.
MARK = "CDN-Loop: chp\r\n"


async def echo(peer: Peer) -> None:
    """A script: the content of each answer is the request's head and its content, without chunks."""
    while True:
        request = await peer.receive_message()
        got = request.head + request.content
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(got), got))


def answer(response: bytes) -> Script:
    """Make a script that answers every request with these bytes."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await peer.send(response)

    return script


async def request_at_backend(chp: Proxy, request: bytes) -> Message:
    """Send a request through the proxy, and return what the echoing backend got."""
    message = await chp.request(request)
    assert message.status == 200
    head, end, content = message.content.partition(END_OF_HEAD)
    got = Message(head + end)
    got.content = content
    return got


async def target_at_backend(chp: Proxy, target: str, *, host: str = "h") -> str:
    """Ask for a target, and return the one that the echoing backend was asked for."""
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    return (await request_at_backend(chp, request)).start.split()[1].decode()
