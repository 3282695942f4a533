"""TLS of the curl upstream: the same files, names and versions as the direct one has."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.wire import Peer, backend, proxy, until

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

    async def answer(peer: Peer) -> None:
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


@pytest.mark.parametrize("kind", ["direct", "curl"])
@pytest.mark.parametrize("insecure", [False, True])
async def test_a_certificate_for_another_name(kind: str, insecure: bool, pki: Any, log_lines: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.client_cert, pki.client_key)
    async with (
        backend(tls=context) as server,
        proxy(server.url, upstream=kind, client_ssl_ca=pki.ca, insecure=insecure) as chp,
    ):
        assert (await chp.get()).status == (200 if insecure else 503)
        assert insecure or log_lines.take("503 GET / TLS with https://127.0.0.1:\\d+ failed: .*(match|name)")


@pytest.fixture
def expired(pki: Any, tmp_path: Path) -> Path:
    """A folder with a certificate of long ago and its key."""
    (tmp_path / "index").touch()
    (tmp_path / "config").write_text(
        "[ca]\ndefault_ca = it\n[it]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\n"
        "default_md = sha256\npolicy = any\ncopy_extensions = copy\n[any]\ncommonName = supplied\n"
    )
    ca_key = Path(pki.ca).with_suffix(".key")
    curve, name = "ec_paramgen_curve:P-256", "subjectAltName=IP:127.0.0.1"
    validity = "-startdate 20200101000000Z -enddate 20200102000000Z"
    for command in (
        f"req -new -newkey ec -pkeyopt {curve} -nodes -keyout key -out request -subj /CN=old -addext {name}",
        f"ca -batch -config config -cert {pki.ca} -keyfile {ca_key} -in request -out cert {validity}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["direct", "curl"])
async def test_an_expired_certificate(kind: str, expired: Path, pki: Any, log_lines: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(expired / "cert", expired / "key")
    async with (
        backend(tls=context) as server,
        proxy(server.url, upstream=kind, client_ssl_ca=pki.ca) as chp,
    ):
        assert (await chp.get()).status == 503
        assert log_lines.take("503 GET / TLS with https://127.0.0.1:\\d+ failed: .*expired")


@pytest.mark.parametrize("kind", ["direct", "curl"])
async def test_the_server_is_told_its_name_and_no_address(kind: str, pki: Any) -> None:
    """RFC 6066, section 3: literal addresses are not permitted in SNI."""
    names: list[str | None] = []
    context = server_context(pki)
    context.sni_callback = lambda _, name, __: names.append(name)
    async with backend(tls=context) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            async with proxy(url, upstream=kind, client_ssl_ca=pki.ca) as chp:
                assert (await chp.get()).content == b"ok"
    assert names == [None, "localhost"]


async def test_no_session_of_tls_is_used_for_another_origin(pki: Any) -> None:
    """They all have a server of the same name, and the first two the same keys for tickets."""
    contexts = [server_context(pki), server_context(pki, client_ca=pki.ca)]
    reused: list[bool] = []

    async def answer(peer: Peer) -> None:
        reused.append(peer.writer.get_extra_info("ssl_object").session_reused)
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    files = {"client_ssl_key": pki.client_key, "client_ssl_cert": pki.client_cert, "client_ssl_ca": pki.ca}
    async with (
        backend(answer, tls=contexts[0]) as one,
        backend(answer, tls=contexts[0]) as same_context,
        backend(answer, tls=contexts[1]) as other,
        proxy(**files) as chp,
    ):
        for path, server in (("/one", one), ("/same", same_context), ("/other", other)):
            await chp.add_route(path, server.url)
        for path in ("/one", "/same", "/other", "/one"):
            assert (await chp.get(path)).content == b"ok"
    assert reused == [False, False, False, True]


async def test_a_server_that_never_ends_tls_is_not_waited_for(pki: Any) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        peer.stop_reading()
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await asyncio.get_running_loop().create_future()

    async with (
        backend(answer, tls=server_context(pki)) as server,
        proxy(server.url, client_ssl_ca=pki.ca) as chp,
    ):
        assert (await chp.get()).content == b"ok"
        await until(lambda: not chp.app.metrics.upstream_connections)
