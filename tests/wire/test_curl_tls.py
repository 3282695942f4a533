"""TLS of the curl upstream: the same files, names and versions as the direct one has."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from support.wire import backend, proxy

FAILED = "503 GET / (TLS with https://127.0.0.1:\\d+ failed|can.t connect|the connection)"


def server_context(pki: Any, *, client_ca: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.cert, pki.key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("kind", ["auto", "direct", "curl"])
async def test_https_works_with_each_choice(kind: str, pki: Any) -> None:
    async with (
        backend(tls=server_context(pki)) as server,
        proxy(server.url, upstream=kind, client_ssl_ca=pki.ca) as chp,
    ):
        assert (await chp.get()).content == b"ok"


@pytest.mark.parametrize("kind", ["direct", "curl"])
async def test_a_bundle_of_authorities(kind: str, pki: Any) -> None:
    async with (
        backend(tls=server_context(pki)) as server,
        proxy(server.url, upstream=kind, client_ssl_ca=pki.ca_bundle) as chp,
    ):
        assert (await chp.get()).content == b"ok"


@pytest.mark.parametrize("kind", ["direct", "curl"])
async def test_the_systems_authorities_by_default(
    kind: str, pki: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever Python's OpenSSL has them, not pycurl's."""
    monkeypatch.setenv("SSL_CERT_FILE", pki.ca)
    async with backend(tls=server_context(pki)) as server, proxy(server.url, upstream=kind) as chp:
        assert (await chp.get()).content == b"ok"


@pytest.mark.parametrize("passphrase", ["secret", "wrong"])
@pytest.mark.parametrize("kind", ["direct", "curl"])
async def test_an_encrypted_key(
    kind: str, passphrase: str, pki: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIGPROXY_CLIENT_SSL_KEY_PASSPHRASE", passphrase)
    options = {"client_ssl_key": pki.encrypted_key, "client_ssl_cert": pki.cert, "client_ssl_ca": pki.ca}
    async with backend(tls=server_context(pki, client_ca=pki.ca)) as server:
        if passphrase == "wrong":
            with pytest.raises(Exception, match="the passphrase is wrong"):
                async with proxy(server.url, upstream=kind, **options):
                    pass
        else:
            async with proxy(server.url, upstream=kind, **options) as chp:
                assert (await chp.get()).content == b"ok"


def only(version: ssl.TLSVersion) -> Callable[[ssl.SSLContext], None]:
    def limit(context: ssl.SSLContext) -> None:
        context.minimum_version = context.maximum_version = version

    return limit


def only_weak_ciphers(context: ssl.SSLContext) -> None:
    only(ssl.TLSVersion.TLSv1_2)(context)
    context.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA")


@pytest.mark.parametrize("kind", ["direct", "curl"])
@pytest.mark.parametrize(
    ("limit", "option", "works"),
    [
        (only(ssl.TLSVersion.TLSv1_2), "", True),
        (only(ssl.TLSVersion.TLSv1_3), "", True),
        (only(ssl.TLSVersion.TLSv1_2), "TLSv1_2", True),
        (only(ssl.TLSVersion.TLSv1_2), "TLSv1_3", False),
        (only(ssl.TLSVersion.TLSv1_3), "TLSv1_2", False),
        (only_weak_ciphers, "", False),
    ],
)
async def test_versions_and_ciphers(
    limit: Callable[[ssl.SSLContext], None], option: str, works: bool, kind: str, pki: Any, log_lines: Any
) -> None:
    context = server_context(pki)
    limit(context)
    async with (
        backend(tls=context) as server,
        proxy(server.url, upstream=kind, client_ssl_ca=pki.ca, ssl_protocol=option) as chp,
    ):
        assert (await chp.get()).status == (200 if works else 503)
        assert works or log_lines.take(FAILED)


@pytest.mark.parametrize("kind", ["direct", "curl"])
async def test_http1_is_what_is_asked_for(kind: str, pki: Any) -> None:
    context = server_context(pki)
    context.set_alpn_protocols(["h2", "http/1.1"])
    chosen: list[str | None] = []

    async def answer(peer: Any) -> None:
        chosen.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        backend(answer, tls=context) as server,
        proxy(server.url, upstream=kind, client_ssl_ca=pki.ca) as chp,
    ):
        assert (await chp.get()).content == b"ok"
    assert chosen == ["http/1.1"]


@pytest.mark.parametrize("kind", ["direct", "curl"])
async def test_an_intermediate_is_no_root(kind: str, pki: Any, log_lines: Any) -> None:
    """Trust in the certificate of the server itself, which is no authority, is not enough."""
    async with (
        backend(tls=server_context(pki)) as server,
        proxy(server.url, upstream=kind, client_ssl_ca=pki.cert) as chp,
    ):
        assert (await chp.get()).status == 503
        assert log_lines.take(FAILED)
