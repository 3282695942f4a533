"""Location of redirects: --auto-rewrite and --protocol-rewrite."""

from __future__ import annotations

import asyncio

import pytest
from support.wire import Message, Peer, Script, backend, proxy

REQUEST = b"GET / HTTP/1.1\r\nHost: outer:81\r\n\r\n"


def redirect(status: int, *locations: str) -> Script:
    """Make a script that redirects; ``{own}`` in a location is the backend's own host and port."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            own = "{}:{}".format(*peer.writer.get_extra_info("sockname"))
            block = "".join(f"Location: {location}\r\n" for location in locations).replace("{own}", own)
            await peer.send(f"HTTP/1.1 {status} X\r\n{block}Content-Length: 0\r\n\r\n".encode("latin-1"))

    return script


async def redirected(script: Script, request: bytes = REQUEST, **options: object) -> tuple[Message, str]:
    """Return the response to a request, and the backend's host and port."""
    async with backend(script) as server, proxy(server.url, **options) as chp:
        return await chp.request(request), server.url.removeprefix("http://")


@pytest.mark.parametrize("status", [201, 301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, b"http://{own}/x?y#z"),
        ({"change_origin": True}, b"http://{own}/x?y#z"),
        ({"auto_rewrite": True}, b"http://outer:81/x?y#z"),
        ({"protocol_rewrite": "https"}, b"https://{own}/x?y#z"),
        ({"auto_rewrite": True, "protocol_rewrite": "https"}, b"https://outer:81/x?y#z"),
        ({"auto_rewrite": True, "change_origin": True}, b"http://outer:81/x?y#z"),
    ],
)
async def test_location_at_the_target_is_rewritten(
    status: int, options: dict[str, object], expected: bytes
) -> None:
    message, own = await redirected(redirect(status, "http://{own}/x?y#z"), **options)
    assert message.status == status
    assert message.value(b"location") == expected.replace(b"{own}", own.encode())


async def test_a_route_that_gets_another_target_meanwhile_changes_nothing() -> None:
    answered = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        await answered.wait()
        own = b"%b:%d" % (b"127.0.0.1", peer.writer.get_extra_info("sockname")[1])
        await peer.send(b"HTTP/1.1 302 X\r\nLocation: http://%b/x\r\nContent-Length: 0\r\n\r\n" % own)

    async with backend(script) as server, backend() as other, proxy(server.url, auto_rewrite=True) as chp:
        peer = await chp.connect()
        await peer.send(REQUEST)
        await server.wait_for(b"GET / ")
        await chp.add_route("/", other.url)
        answered.set()
        assert (await peer.receive_message()).value(b"location") == b"http://outer:81/x"
        await peer.send(REQUEST)
        assert (await peer.receive_message()).content == b"ok"


@pytest.mark.parametrize("status", [200, 202, 300, 304, 305, 306, 400, 404])
async def test_location_of_other_answers_stays(status: int) -> None:
    message, own = await redirected(
        redirect(status, "http://{own}/x"), auto_rewrite=True, protocol_rewrite="https"
    )
    assert message.value(b"location") == b"http://" + own.encode() + b"/x"


@pytest.mark.parametrize(
    "location",
    [
        *("/x", "x", "", "//elsewhere/x", "?q", "#f"),
        *(
            "http://elsewhere/x",
            "http://{own}1/x",
            "http://{own}.evil/x",
            "http://x.{own}/x",
            "http://127.0.0.1/x",
        ),
        *("ftp://{own}/x", "mailto:a@b", "http:/{own}/x", "http:///x", "http://[::1/x", "http://{own}:80/x"),
        # These are elsewhere, however they begin.
        *("http://{own}@elsewhere/x", "http://{own}:x@elsewhere/x", "http://user@{own}/x"),
        *("http://{own}\\@elsewhere/x", "http://{own}%2f@elsewhere/x"),
        "http://\xe9/x",
    ],
)
async def test_location_elsewhere_or_unparsable_stays(location: str) -> None:
    message, own = await redirected(redirect(302, location), auto_rewrite=True, protocol_rewrite="https")
    assert message.values(b"location") == [location.replace("{own}", own).encode("latin-1")]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("HTTP://{own}/X", b"http://outer:81/X"),
        ("http://{own}", b"http://outer:81"),
        ("http://{own}?q", b"http://outer:81?q"),
        ("http://{own}/a%20b/../c?d=http://{own}/", b"http://outer:81/a%20b/../c?d=http://{own}/"),
        ("https://{own}/x", b"https://outer:81/x"),
    ],
)
async def test_only_host_and_port_change(location: str, expected: bytes) -> None:
    message, own = await redirected(redirect(302, location), auto_rewrite=True)
    assert message.value(b"location") == expected.replace(b"{own}", own.encode())


async def test_other_fields_keep_their_place_and_form() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        own = "{}:{}".format(*peer.writer.get_extra_info("sockname"))
        await peer.send(
            f"HTTP/1.1 302 Found\r\nA: 1\r\nLOCATION: http://{own}/x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
            "Content-Location: http://elsewhere/\r\nContent-Length: 0\r\n\r\n".encode()
        )

    message, _ = await redirected(script, auto_rewrite=True)
    assert message.head == (
        b"HTTP/1.1 302 Found\r\nA: 1\r\nLOCATION: http://outer:81/x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
        b"Content-Location: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize("host", [b"outer", b"outer.", b"[::1]:81", b"OUTER:443"])
async def test_rewritten_to_what_the_client_calls_the_host(host: bytes) -> None:
    request = REQUEST.replace(b"outer:81", host)
    message, _ = await redirected(redirect(302, "http://{own}/x"), request, auto_rewrite=True)
    assert message.value(b"location") == b"http://" + host + b"/x"


async def test_rewritten_to_the_host_of_the_absolute_form() -> None:
    request = b"GET http://absolute/ HTTP/1.1\r\nHost: outer:81\r\n\r\n"
    message, _ = await redirected(redirect(302, "http://{own}/x"), request, auto_rewrite=True)
    assert message.value(b"location") == b"http://absolute/x"


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"])
async def test_without_a_host_of_the_client_the_targets_stays(request_: bytes) -> None:
    message, own = await redirected(redirect(302, "http://{own}/x"), request_, auto_rewrite=True)
    assert message.value(b"location") == b"http://" + own.encode() + b"/x"


async def test_redirect_of_a_target_with_a_path() -> None:
    async with (
        backend(redirect(302, "http://{own}/base/x")) as server,
        proxy(server.url + "/base", auto_rewrite=True) as chp,
    ):
        assert (await chp.request(REQUEST)).value(b"location") == b"http://outer:81/base/x"
