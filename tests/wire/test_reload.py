"""Reloading while connections are open: new ones get what is new, nothing that runs is disturbed."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.streams import hang
from support.wire import Message, Peer, Proxy, answer_ok, backend, proxy, until

from chp import reload
from chp.config import build
from chp.config.options import Options
from chp.config.settings import ProxySettings

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
LISTS = b"GET /api/routes HTTP/1.1\r\nHost: h\r\nAuthorization: token secret\r\n\r\n"
FAILED = "Configuration not reloaded, all is as it was: "


def trusting(pki: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=pki.ca)


async def shown_certificate(address: Any, pki: Any) -> str:
    """Return the name in the certificate that a new connection gets."""
    _, writer = await asyncio.open_connection(*address, ssl=trusting(pki))
    subject = writer.get_extra_info("peercert")["subject"]
    writer.close()
    await writer.wait_closed()
    return str(dict(pair for part in subject for pair in part)["commonName"])


class Secret:
    """Key and certificate as Kubernetes mounts them: behind a link to a directory, which is replaced."""

    def __init__(self, directory: Path, cert: str, key: str) -> None:
        self._directory = directory
        self._versions = 0
        self.swap(cert, key)
        self.cert, self.key = str(directory / "tls.crt"), str(directory / "tls.key")
        for name in ("tls.crt", "tls.key"):
            (directory / name).symlink_to(f"..data/{name}")

    def swap(self, cert: str, key: str) -> None:
        self._versions += 1
        version = self._directory / f"..{self._versions}"
        version.mkdir()
        shutil.copy(cert, version / "tls.crt")
        shutil.copy(key, version / "tls.key")
        link = self._directory / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, self._directory / "..data")


@pytest.fixture
def secret(tmp_path: Path, pki: Any) -> Secret:
    return Secret(tmp_path, pki.cert, pki.key)


@pytest.fixture
def other(pki: Any) -> tuple[str, str]:
    return tuple(pki.new_server("renewed"))  # type: ignore[return-value]


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "WATCH_INTERVAL", 0.02)


# -- options --------------------------------------------------------------------------


async def test_new_exchanges_get_new_settings_on_the_same_connection() -> None:
    async with backend() as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for header, there in (([], False), (["X-New: 1"], True), (["X-New: 2"], True), ([], False)):
            chp.app.custom_header = header
            chp.app.reload()
            before = len(server.all_received)
            await peer.send(GET)
            assert (await peer.receive_message()).status == 200
            await until(lambda before=before: len(server.all_received) > before)  # type: ignore[misc]
            last = b"".join(bytes(data) for data in server.received[-1:])
            assert (b"X-New: " in last) is there
            if there:
                assert header[0].encode() in last


async def test_a_request_that_waited_for_its_route_gets_new_settings_too() -> None:
    async with backend() as server, proxy() as chp:
        await chp.add_route("/a", server.url)
        peer = await chp.connect()
        await peer.send(GET.replace(b"/", b"/a", 1))
        assert (await peer.receive_message()).status == 200
        chp.app.table.link._set_behind()
        await peer.send(GET.replace(b"/", b"/b", 1))  # the same fields, and no route yet
        await until(lambda: chp.app.metrics.store_waits == 1)
        chp.app.custom_header = ["X-New: 1"]
        chp.app.reload()
        await chp.add_route("/b", server.url)
        chp.app.table.link._in_step()
        assert (await peer.receive_message()).status == 200
        assert b"GET /b HTTP/1.1" in server.all_received
        assert b"X-New: 1" in server.all_received


async def test_what_runs_goes_on(tmp_path: Path) -> None:
    """A response in the middle, an upload, a tunnel, and a request that waits for its answer."""
    go_on = asyncio.Event()

    async def serve(peer: Peer) -> None:
        head = await peer.receive_head()
        if b"Upgrade" in head:
            await peer.send(SWITCHED)
            while data := await peer.reader.read(100):
                await peer.send(data)
        elif head.startswith(b"POST"):
            await peer.receive(10)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nuploaded")
        elif head.startswith(b"GET /half"):
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            await go_on.wait()
            await peer.send(b"half")
        else:
            await go_on.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nwaited")
        await hang(peer)

    async with backend(serve) as server, proxy(server.url) as chp:
        half, upload, tunnel, waiting = [await chp.connect() for _ in range(4)]
        await half.send(b"GET /half HTTP/1.1\r\nHost: h\r\n\r\n")
        await half.receive_until(b"half")
        await upload.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello")
        await tunnel.send(UPGRADE)
        await tunnel.receive(len(SWITCHED))
        await waiting.send(GET)
        await until(lambda: server.connections == 4)
        for number in range(3):
            chp.app.timeout = chp.app.proxy_timeout = 60_000 + number
            chp.app.reload()
            await tunnel.send(b"ping")
            assert await tunnel.receive(4) == b"ping"
        go_on.set()
        assert await half.receive(4) == b"half"
        await upload.send(b"again")
        assert (await upload.receive_message()).content == b"uploaded"
        assert (await waiting.receive_message()).content == b"waited"
        # And on the same connections, with new ones to the target.
        await half.send(UPGRADE)
        assert await half.receive(len(SWITCHED)) == SWITCHED
        await tunnel.send(b"still there")
        assert await tunnel.receive(11) == b"still there"


async def test_new_connections_get_new_timeouts() -> None:
    async with backend(hang) as server, proxy(server.url) as chp:
        old = await chp.connect()
        await old.send(GET)
        await server.wait_for(b"\r\n\r\n")
        chp.app.timeout = 100
        chp.app.reload()
        new = await chp.connect()
        await new.send(GET)
        assert await asyncio.wait_for(new.reader.read(), 5) == b""
        assert old.reader._eof is False  # type: ignore[attr-defined]


@pytest.mark.expect_log("503 GET /")
async def test_the_time_for_a_target_is_new_too() -> None:
    async with backend(hang) as server, proxy(server.url) as chp:
        chp.app.proxy_timeout = 100
        chp.app.reload()
        assert (await chp.get()).status == 503


@pytest.mark.expect_log("404 GET /")
async def test_error_pages_are_new(tmp_path: Path) -> None:
    (tmp_path / "404.html").write_text("mine")
    async with backend() as server, proxy() as chp:
        assert b"mine" not in (await chp.get()).content
        chp.app.error_path = str(tmp_path)
        chp.app.reload()
        assert (await chp.get()).content == b"mine"
        chp.app.error_path, chp.app.error_target = "", server.url
        chp.app.reload()
        assert (await chp.get()).content == b"ok"


async def test_the_hook_is_new() -> None:
    async with backend() as server, proxy(server.url) as chp:
        chp.app.proxy_request = lambda request: setattr(request, "target", b"/hooked")
        chp.app.reload()
        assert (await chp.get()).status == 200
        assert server.all_received.startswith(b"GET /hooked ")


@pytest.mark.expect_log(FAILED + "Cannot specify both error-target and error-path")
async def test_what_can_not_be_used_changes_nothing(tmp_path: Path) -> None:
    async with backend() as server, proxy(server.url) as chp:
        chp.app.custom_header = ["X-New: 1"]
        chp.app.error_path, chp.app.error_target = str(tmp_path), server.url
        chp.app.reload()
        assert (await chp.get()).status == 200
        assert b"X-New" not in server.all_received
        assert chp.app.metrics.config_reloads == {"ok": 0, "failed": 1}


@pytest.mark.expect_log(FAILED + "OverflowError: ")
async def test_what_nobody_has_thought_of_changes_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: Options) -> ProxySettings:
        raise OverflowError("too large for a float")

    async with backend() as server, proxy(server.url) as chp:
        chp.app.custom_header = ["X-New: 1"]
        monkeypatch.setattr(build, "proxy_settings", fail)
        chp.app.reload()
        assert (await chp.get()).status == 200
        assert b"X-New" not in server.all_received
        assert chp.app.metrics.config_reloads == {"ok": 0, "failed": 1}


@pytest.mark.expect_log(
    "These can't change while the proxy runs, and did not: api_max_body_size, host_routing$"
)
async def test_what_can_not_change_is_named(pki: Any) -> None:
    async with backend() as server, proxy(server.url) as chp:
        chp.app.host_routing = True
        chp.app.api_max_body_size = 7
        chp.app.reload()
        assert (await chp.get()).status == 200
        assert chp.app.metrics.config_reloads == {"ok": 1, "failed": 0}


async def test_nothing_runs_nothing_reloads() -> None:
    async with proxy() as chp:
        await chp.app.stop()
        chp.app.reload()  # no error


# -- certificates ---------------------------------------------------------------------


@pytest.mark.parametrize("side", ["proxy", "api"])
async def test_a_new_certificate_for_new_connections(
    pki: Any, secret: Secret, other: tuple[str, str], side: str
) -> None:
    prefix = "api_" if side == "api" else ""
    options = {f"{prefix}ssl_key": secret.key, f"{prefix}ssl_cert": secret.cert}
    async with backend() as server, proxy(server.url, **options) as chp:
        address = chp.app.api_address if side == "api" else chp.app.proxy_address
        request = LISTS if side == "api" else GET
        assert await shown_certificate(address, pki) == "server"
        peer = Peer(*await asyncio.open_connection(*address, ssl=trusting(pki)))
        await peer.send(request)
        assert (await peer.receive_message()).status == 200
        secret.swap(*other)
        chp.app.reload()
        assert await shown_certificate(address, pki) == "renewed"
        await peer.send(request)
        assert (await peer.receive_message()).status == 200
        await peer.close()


async def test_a_certificate_of_another_name(pki: Any, other: tuple[str, str]) -> None:
    async with proxy(ssl_key=pki.key, ssl_cert=pki.cert) as chp:
        chp.app.ssl_cert, chp.app.ssl_key = other
        chp.app.reload()
        assert await shown_certificate(chp.app.proxy_address, pki) == "renewed"


@pytest.mark.expect_log(FAILED + "--ssl-key: .* is not the key of --ssl-cert")
async def test_a_key_that_does_not_fit_changes_nothing(
    pki: Any, secret: Secret, other: tuple[str, str]
) -> None:
    async with proxy(ssl_key=secret.key, ssl_cert=secret.cert) as chp:
        secret.swap(other[0], pki.key)
        chp.app.reload()
        assert await shown_certificate(chp.app.proxy_address, pki) == "server"


@pytest.mark.parametrize("side", ["proxy", "api"])
async def test_a_swapped_secret_is_noticed(
    pki: Any, secret: Secret, other: tuple[str, str], side: str, watching: None
) -> None:
    prefix = "api_" if side == "api" else ""
    options = {f"{prefix}ssl_key": secret.key, f"{prefix}ssl_cert": secret.cert}
    async with proxy(**options) as chp:
        address = chp.app.api_address if side == "api" else chp.app.proxy_address
        first = chp.app.metrics.certificate_expiry[side]
        secret.swap(*other)
        await until(lambda: chp.app.metrics.certificate_reloads["ok"])
        assert await shown_certificate(address, pki) == "renewed"
        assert chp.app.metrics.certificate_expiry[side] >= first
        secret.swap(pki.cert, pki.key)
        await until(lambda: chp.app.metrics.certificate_reloads["ok"] == 2)
        assert await shown_certificate(address, pki) == "server"


def write_both(file: Path, *parts: str) -> None:
    file.write_text("".join(Path(part).read_text() for part in parts))


async def test_a_file_that_is_written_again_is_noticed(
    pki: Any, tmp_path: Path, other: tuple[str, str], watching: None
) -> None:
    pair = tmp_path / "both.pem"
    write_both(pair, pki.cert, pki.key)
    async with proxy(ssl_cert=str(pair)) as chp:
        write_both(pair, *other)
        await until(lambda: chp.app.metrics.certificate_reloads["ok"])
        assert await shown_certificate(chp.app.proxy_address, pki) == "renewed"


async def test_a_bad_pair_keeps_the_old_one_and_is_one_error(
    pki: Any, secret: Secret, other: tuple[str, str], watching: None, log_lines: Any
) -> None:
    async with proxy(ssl_key=secret.key, ssl_cert=secret.cert) as chp:
        reloads = chp.app.metrics.certificate_reloads
        expiry = dict(chp.app.metrics.certificate_expiry)
        secret.swap(other[0], pki.key)
        await until(lambda: reloads["failed"])
        await asyncio.sleep(10 * reload.WATCH_INTERVAL)  # many more looks
        assert reloads == {"ok": 0, "failed": 1}
        lines = log_lines.take(r"Certificate \(proxy\) not reloaded, the old one stays: --ssl-key: ")
        assert len(lines) == 1
        assert await shown_certificate(chp.app.proxy_address, pki) == "server"
        assert chp.app.metrics.certificate_expiry == expiry
        secret.swap(*other)
        await until(lambda: reloads["ok"])
        assert await shown_certificate(chp.app.proxy_address, pki) == "renewed"


@pytest.mark.expect_log(r"Certificate \(proxy\) not reloaded, the old one stays: --ssl-cert: can't read")
async def test_a_file_that_is_gone_for_a_moment(pki: Any, tmp_path: Path, watching: None) -> None:
    cert = tmp_path / "cert.pem"
    shutil.copy(pki.cert, cert)
    async with proxy(ssl_key=pki.key, ssl_cert=str(cert)) as chp:
        cert.unlink()
        await until(lambda: chp.app.metrics.certificate_reloads["failed"])
        assert await shown_certificate(chp.app.proxy_address, pki) == "server"
        shutil.copy(pki.cert, cert)
        await until(lambda: chp.app.metrics.certificate_reloads["ok"])


async def test_the_certificate_for_https_targets_is_noticed(pki: Any, secret: Secret, watching: None) -> None:
    """A target that asks for a certificate sees the new one, on a new connection."""
    secret.swap(pki.client_cert, pki.client_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.cert, pki.key)
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    names = []

    async def ask(peer: Peer) -> None:
        subject = peer.writer.get_extra_info("peercert")["subject"]
        names.append(dict(pair for part in subject for pair in part)["commonName"])
        await answer_ok(peer)

    new = pki.new_server("new-client")
    options = {"client_ssl_ca": pki.ca, "client_ssl_cert": secret.cert, "client_ssl_key": secret.key}
    async with backend(ask, tls=context) as server, proxy(server.url, **options) as chp:
        assert (await chp.get()).status == 200
        assert (await chp.get()).status == 200
        secret.swap(*new)
        await until(lambda: chp.app.metrics.certificate_reloads["ok"])
        assert (await chp.get()).status == 200
    assert names == ["client", "new-client"]


async def test_expiry_is_that_of_the_certificate(pki: Any) -> None:
    options = {"ssl_key": pki.key, "ssl_cert": pki.cert, "api_ssl_key": pki.key, "api_ssl_cert": pki.cert}
    async with proxy(metrics_port=0, metrics_ip="127.0.0.1", **options) as chp:
        _, writer = await asyncio.open_connection(*chp.app.proxy_address, ssl=trusting(pki))
        end = int(ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"]))
        writer.close()
        await writer.wait_closed()
        peer = Peer(*await asyncio.open_connection(*chp.app.metrics_address))
        await peer.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        page = (await peer.receive_message()).content.decode()
        await peer.close()
    for server in ("proxy", "api"):
        assert f'chp_tls_certificate_expiry_timestamp_seconds{{server="{server}"}} {end}\n' in page


# -- nothing is left ------------------------------------------------------------------


def count(kind: Callable[[Any], bool]) -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if kind(thing))


async def test_two_hundred_reloads_leave_nothing(pki: Any, secret: Secret) -> None:
    options = {"ssl_key": secret.key, "ssl_cert": secret.cert, "client_ssl_ca": pki.ca}

    async def get(chp: Proxy) -> None:
        peer = await chp.connect(tls=trusting(pki))
        await peer.send(GET)
        assert Message(await peer.receive_head()).status == 200
        await peer.close()

    async with backend() as server, proxy(server.url, **options) as chp:

        async def some_reloads(number: int) -> tuple[int, int, int]:
            for _ in range(number):
                chp.app.reload()
            await get(chp)
            await until(lambda: chp.app.metrics.upstream_connections <= 1)
            contexts = count(lambda thing: isinstance(thing, ssl.SSLContext))
            tasks = len(asyncio.all_tasks())
            return len(os.listdir("/proc/self/fd")), contexts, tasks

        descriptors, contexts, tasks = await some_reloads(2)
        after = await some_reloads(200)
        assert after[0] == descriptors
        assert after[1] <= contexts + 2  # those of connections that are about to end
        assert after[2] == tasks
