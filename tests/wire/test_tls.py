"""TLS on the wire: the proxy's own, and that of https targets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.streams import broken_off, hang, quiet
from support.wire import Backend, Message, Peer, Proxy, answer_ok, backend, proxy

from chp.errors import ConfigError

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


def client_context(pki: Any, *, cert: bool = False, **attributes: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki.ca)
    if cert:
        context.load_cert_chain(pki.client_cert, pki.client_key)
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


def server_context(pki: Any, *, client_ca: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_cert_chain(pki.cert, pki.key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def fetch(chp: Proxy, context: ssl.SSLContext) -> Message:
    peer = await chp.connect(tls=context)
    await peer.send(GET)
    try:
        return await peer.receive_message()
    finally:
        await peer.close()


# -- the proxy's own ------------------------------------------------------------------


async def test_requests_and_their_forwarded_fields(pki: Any) -> None:
    async with backend() as server, proxy(server.url, ssl_key=pki.key, ssl_cert=pki.cert) as chp:
        peer = await chp.connect(tls=client_context(pki))
        for _ in range(2):
            await peer.send(GET)
            assert (await peer.receive_message()).content == b"ok"
        request = Message(bytes(server.received[0][: len(server.received[0]) // 2]))
        assert request.value(b"X-Forwarded-Proto") == b"https"
        assert request.value(b"X-Forwarded-Port") == b"443"
        await peer.close()
        await quiet(chp)


async def test_plain_http_on_the_tls_port_is_closed(pki: Any) -> None:
    async with proxy(ssl_key=pki.key, ssl_cert=pki.cert) as chp:
        _, answer = await chp.outcome(GET)
        assert b"HTTP" not in answer
        assert chp.app.metrics.client_connections_closed["tls_handshake"] == 1
        await quiet(chp)


@pytest.mark.parametrize(
    ("required", "shown", "accepted"),
    [(False, False, True), (False, True, True), (True, False, False), (True, True, True)],
)
async def test_client_certificates(required: bool, shown: bool, accepted: bool, pki: Any) -> None:
    options: Any = {
        "ssl_key": pki.key,
        "ssl_cert": pki.cert,
        "ssl_ca": pki.ca_bundle,
        "ssl_request_cert": True,
        "ssl_reject_unauthorized": required,
    }
    async with backend() as server, proxy(server.url, **options) as chp:
        context = client_context(pki, cert=shown)
        if accepted:
            assert (await fetch(chp, context)).status == 200
        else:
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await fetch(chp, context)
            assert server.connections == 0
        await quiet(chp)


async def test_a_client_certificate_of_a_stranger_is_refused(pki: Any) -> None:
    options: Any = {
        "ssl_key": pki.key,
        "ssl_cert": pki.cert,
        "ssl_ca": pki.other_ca,
        "ssl_request_cert": True,
    }
    async with backend() as server, proxy(server.url, **options) as chp:
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await fetch(chp, client_context(pki, cert=True))
        assert server.connections == 0
        await quiet(chp)


async def test_an_encrypted_key(pki: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGPROXY_SSL_KEY_PASSPHRASE", "secret")
    async with backend() as server, proxy(server.url, ssl_key=pki.encrypted_key, ssl_cert=pki.cert) as chp:
        assert (await fetch(chp, client_context(pki))).status == 200


@pytest.mark.parametrize("passphrase", [None, "wrong"])
async def test_an_encrypted_key_without_its_passphrase(
    passphrase: str | None, pki: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONFIGPROXY_SSL_KEY_PASSPHRASE", raising=False)
    if passphrase:
        monkeypatch.setenv("CONFIGPROXY_SSL_KEY_PASSPHRASE", passphrase)
    with pytest.raises(ConfigError, match="passphrase"):
        async with proxy(ssl_key=pki.encrypted_key, ssl_cert=pki.cert):
            pass


V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("options", "client", "accepted"),
    [
        ({}, {"maximum_version": V12}, True),
        ({}, {"minimum_version": V13}, True),
        ({"ssl_protocol": "TLSv1_3"}, {"maximum_version": V12}, False),
        ({"ssl_protocol": "TLSv1_2"}, {"minimum_version": V13}, False),
        ({"ssl_ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"}, {"maximum_version": V12}, True),
        ({"ssl_ciphers": "ECDHE-RSA-AES256-GCM-SHA384"}, {"maximum_version": V12}, False),
    ],
)
async def test_versions_and_ciphers(
    options: dict[str, str], client: dict[str, Any], accepted: bool, pki: Any
) -> None:
    async with backend() as server, proxy(server.url, ssl_key=pki.key, ssl_cert=pki.cert, **options) as chp:
        if accepted:
            assert (await fetch(chp, client_context(pki, **client))).status == 200
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await fetch(chp, client_context(pki, **client))
        await quiet(chp)


@pytest.mark.expect_log("Response to GET / cut")
async def test_a_cut_response_is_no_proper_end_of_tls_either(pki: Any) -> None:
    seen = asyncio.Event()

    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await seen.wait()

    async with backend(die) as server, proxy(server.url, ssl_key=pki.key, ssl_cert=pki.cert) as chp:
        peer = await chp.connect(tls=client_context(pki))
        await peer.send(GET)
        await peer.receive_until(b"hello")
        seen.set()
        await broken_off(peer)
        await quiet(chp)


async def test_a_refused_upload_over_tls_gets_its_answer(pki: Any) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\nno")

    async with backend(refuse) as server, proxy(server.url, ssl_key=pki.key, ssl_cert=pki.cert) as chp:
        peer = await chp.connect(tls=client_context(pki))
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(50):
                await peer.send(bytes(100_000))
        message = await peer.receive_message()
        assert (message.status, message.content) == (413, b"no")
        await peer.close()
        await quiet(chp)


@pytest.mark.parametrize("side", ["client", "upstream", "both"])
async def test_tunnels_over_tls(side: str, pki: Any) -> None:
    data = bytes(range(256)) * 8000

    async def echo(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED + b"early")
        await peer.send(await peer.receive(len(data)))

    options: Any = {"ssl_key": pki.key, "ssl_cert": pki.cert} if side != "upstream" else {}
    tls = server_context(pki) if side != "client" else None
    async with backend(echo, tls=tls) as server, proxy(server.url, client_ssl_ca=pki.ca, **options) as chp:
        peer = await chp.connect(tls=client_context(pki) if options else None)
        await peer.send(UPGRADE)
        assert await peer.receive_head() == SWITCHED
        assert await peer.receive(5) == b"early"
        peer.writer.write(data)
        assert await peer.receive(len(data)) == data
        assert await peer.receive_all() == b""
        await peer.close()
        await quiet(chp)


# -- https targets --------------------------------------------------------------------


@contextlib.asynccontextmanager
async def https(pki: Any, *, client_ca: str = "", **options: Any) -> AsyncIterator[tuple[Backend, Proxy]]:
    tls = server_context(pki, client_ca=client_ca)
    async with backend(answer_ok, tls=tls) as server, proxy(server.url, **options) as chp:
        yield server, chp


async def test_an_https_target(pki: Any) -> None:
    async with https(pki, client_ssl_ca=pki.ca) as (server, chp):
        for _ in range(3):
            assert (await chp.get()).content == b"ok"
        assert server.connections == 1
        await quiet(chp)


@pytest.mark.parametrize("ca", ["other_ca", ""])
@pytest.mark.expect_log("503 GET / TLS with https://127.0.0.1:\\d+ failed: ")
async def test_a_target_that_is_not_trusted_is_a_503(ca: str, pki: Any) -> None:
    async with https(pki, client_ssl_ca=getattr(pki, ca) if ca else "") as (server, chp):
        assert (await chp.get()).status == 503
        assert server.all_received == b""
        assert chp.app.metrics.upstream_errors == {"tls": 1}
        await quiet(chp)


@pytest.mark.expect_log("503 GET / TLS with https://127.0.0.1:\\d+ failed: ")
async def test_a_target_of_another_name_is_a_503(pki: Any) -> None:
    context = server_context(pki)
    context.load_cert_chain(pki.client_cert, pki.client_key)  # trusted, and not of this address
    async with backend(tls=context) as server, proxy(server.url, client_ssl_ca=pki.ca) as chp:
        assert (await chp.get()).status == 503
        assert server.all_received == b""


async def test_an_insecure_target_is_used_when_asked_for(pki: Any) -> None:
    async with https(pki, insecure=True) as (_, chp):
        assert (await chp.get()).content == b"ok"


@pytest.mark.parametrize("shown", [False, True])
async def test_a_target_that_wants_a_certificate(shown: bool, pki: Any, log_lines: Any) -> None:
    options = {"client_ssl_key": pki.client_key, "client_ssl_cert": pki.client_cert} if shown else {}
    async with https(pki, client_ca=pki.ca, client_ssl_ca=pki.ca, **options) as (_, chp):
        message = await chp.get()
        assert message.status == (200 if shown else 503)
        if not shown:
            assert log_lines.take("503 GET /")
        await quiet(chp)


@pytest.mark.expect_log("503 GET / TLS with")
async def test_a_plain_target_that_is_called_https_is_a_503() -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive(5)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with backend(answer) as server, proxy(server.url.replace("http:", "https:")) as chp:
        assert (await chp.get()).status == 503
        await quiet(chp)


async def test_an_https_target_that_dies_in_its_response(pki: Any, log_lines: Any) -> None:
    seen = asyncio.Event()

    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await seen.wait()
        peer.abort()

    async with (
        backend(die, tls=server_context(pki)) as server,
        proxy(server.url, client_ssl_ca=pki.ca) as chp,
    ):
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_until(b"hello")
        seen.set()
        await broken_off(peer)
        assert log_lines.take("Response to GET / cut")
        await quiet(chp)


async def test_big_bodies_over_tls_on_both_sides(pki: Any) -> None:
    content = bytes(range(256)) * 40_000

    async def answer(peer: Peer) -> None:
        message = await peer.receive_message()
        assert message.content == content
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        await hang(peer)

    options: Any = {"ssl_key": pki.key, "ssl_cert": pki.cert, "client_ssl_ca": pki.ca}
    async with backend(answer, tls=server_context(pki)) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect(tls=client_context(pki))
        peer.writer.write(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        assert (await peer.receive_message()).content == content
        await peer.close()
        await quiet(chp)
