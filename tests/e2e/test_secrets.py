"""No log line, metric or error page has a token, query, cookie or Authorization, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from support.commands import Proxy, fetch, running
from support.streams import hang
from support.wire import OK, PATIENCE, Backend, Peer, backend, dead_url

TOKEN = "t0ken-of-the-api"
# Each place has a word of its own, so that a failure says where it came from.
WORDS = {
    "the token": TOKEN,
    "a token that is wrong": "wr0ng-token",
    "a query": "s3cret-query",
    "the query of a target": "t4rget-query",
    "a cookie": "s3cret-cookie",
    "Authorization": "s3cret-authorization",
    "Set-Cookie": "s3cret-set-cookie",
    "the content of a request": "s3cret-content",
    "the content of a response": "s3cret-response",
    "a password in a URL": "s3cret-password",
    "WebSocket subprotocols": "s3cret-subprotocol",
}
FIELDS = (
    "Host: h\r\nCookie: session={a cookie}\r\nAuthorization: Bearer {Authorization}\r\n"
    "Proxy-Authorization: Basic {Authorization}\r\nX-XSRFToken: {a cookie}\r\n"
    "Sec-WebSocket-Protocol: v1, {WebSocket subprotocols}\r\n"
    "Referer: http://h/?token={a query}\r\n"
).format_map(WORDS)
QUERY = "token={a query}&next=/x?{a query}".format_map(WORDS)
ANSWER_FIELDS = (
    "Set-Cookie: session={Set-Cookie}\r\nLocation: /x?token={Set-Cookie}\r\n"
    "X: {the content of a response}\r\n"
).format_map(WORDS).encode()  # fmt: skip


def request(target: str, more: str = "", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return f"{method} {target} {version}\r\n{FIELDS}{more}\r\n".encode()


UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
CONTENT = WORDS["the content of a request"]
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT.encode())
PATHS = ("ok", "reset", "garbage", "cut", "chunks", "bad-chunks", "slow")
LENGTH = f"Content-Length: {len(CONTENT)}\r\n"


def requests() -> list[bytes]:
    """Requests of every kind, good and bad, to every target there is."""
    sent = [
        request(f"/{path}?{QUERY}", more, method) + content
        for path in (*PATHS, "no-route", "refused", "unknown")
        for method, more, content in (
            ("GET", "", b""),
            ("HEAD", "", b""),
            ("DELETE", "", b""),
            ("GET", UPGRADE, b"early " + CONTENT.encode()),
            ("POST", LENGTH, CONTENT.encode()),
            ("PUT", "Transfer-Encoding: chunked\r\n", IN_CHUNKS),
        )
    ]  # fmt: skip
    secret = WORDS["a query"]
    sent += [
        request(f"http://user:{WORDS['a password in a URL']}@h/ok?{QUERY}"),
        request(f"http://h/ok?{QUERY}"),
        request(f"/ok?{QUERY}", version="HTTP/1.0"),
        request(f"/ok?{QUERY}", version="HTTP/2.0"),
        request(f"/ok?{QUERY}", version=secret),
        request(f"/ok?{QUERY} {secret}"),
        request(f"/ok?{QUERY}\x01"),
        request(f"/ok/%zz?{QUERY}"),
        request(f"/ok/%ff?{QUERY}"),
        request(f"?{QUERY}"),
        request(f"/ok#?{QUERY}"),
        request(f"//h/ok?{QUERY}"),
        request(f"/ok?{QUERY}", method="CONNECT"),
        request(f"/ok?{QUERY}", method=secret.upper() + "/"),
        request(f"/ok?{QUERY}", f"Host: {secret}\r\n"),
        request(f"/ok?{QUERY}", f"Content-Length: {secret}\r\n", "POST"),
        request(f"/ok?{QUERY}", f"Transfer-Encoding: {secret}\r\n", "POST"),
        request(f"/ok?{QUERY}", f"Transfer-Encoding: chunked\r\n\r\n{secret}\r\n", "POST"),
        request(f"/ok?{QUERY}", f"Expect: {secret}\r\nConnection: {secret}, close\r\nUpgrade: {secret}\r\n"),
        request(f"/ok?{QUERY}", f"{secret}\r\n"),
        request(f"/ok?{QUERY}", f" {secret}: x\r\n"),
        request(f"/ok?{QUERY}", f"{secret} : x\r\n"),
        request(f"/ok?{QUERY}", f"Cookie: a\0{secret}\r\n"),
        request(f"/ok?{QUERY}{'x' * 70_000}"),
        request(f"/ok?{QUERY}", f"Cookie: {secret}{'x' * 70_000}\r\n"),
        request(f"/ok?{QUERY}", f"Cookie: {secret}\r\n" * 300),
        f"GET /ok?{QUERY}\n".encode(),
        f"GET /ok?{QUERY} HTTP/1.1\r\nCookie: {secret}".encode(),  # and no end
        f"\x16\x03\x01{secret}".encode(),
        secret.encode(),
    ]
    return sent


def api_requests() -> list[bytes]:
    token, wrong = WORDS["the token"], WORDS["a token that is wrong"]
    url = "http://h/?{the query of a target}".format_map(WORDS)
    password = "http://user:{a password in a URL}@h/".format_map(WORDS)
    sent = []
    for value in (
        f"token {token}",
        f"Bearer {token}",
        f"token {wrong}",
        wrong,
        token,
        f"token {token} x",
    ):
        authorization = f"Authorization: {value}"
        for method, target, body in (
            ("GET", f"/api/routes?{QUERY}", ""),
            ("GET", f"/api/routes?inactive_since={WORDS['a query']}", ""),
            ("GET", f"/api/routes/%zz?{QUERY}", ""),
            ("GET", f"/api?token={wrong}", ""),
            ("GET", f"/elsewhere?{QUERY}", ""),
            ("PUT", f"/api/routes?{QUERY}", CONTENT),
            ("X-Y", f"/api/routes?{QUERY}", CONTENT),
            ("POST", f"/api/routes/a?{QUERY}", json.dumps({"target": url, "x": CONTENT})),
            ("POST", f"/api/routes/a?{QUERY}", json.dumps({"target": password})),
            ("POST", f"/api/routes/a?{QUERY}", json.dumps({"target": "ftp:" + CONTENT})),
            ("POST", f"/api/routes/a?{QUERY}", json.dumps({"target": [CONTENT]})),
            ("POST", f"/api/routes/a?{QUERY}", '{"' + CONTENT),
            ("POST", f"/api/routes/a?{QUERY}", CONTENT * 100_000),
            ("PATCH", f"/api/routes?{QUERY}", json.dumps({"/b": {"target": url}, "/c": None})),
            ("PATCH", f"/api/routes?{QUERY}", json.dumps({"/b": {"target": "ftp:" + CONTENT}})),
            ("DELETE", f"/api/routes/a?{QUERY}", ""),
            ("DELETE", f"/api/routes/none?{QUERY}", ""),
        ):
            fields = FIELDS.replace(f"Authorization: Bearer {WORDS['Authorization']}", authorization)
            head = f"{method} {target} HTTP/1.1\r\n{fields}Connection: close\r\n"
            sent.append(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return sent


async def serve(peer: Peer) -> None:
    """Answer as the path says."""
    while True:
        head = await peer.receive_head()
        path = head.split(b" ")[1].partition(b"?")[0].rpartition(b"/")[2]
        secret = WORDS["the content of a response"].encode()
        if path == b"reset":
            peer.abort()
            return
        if path == b"garbage":
            await peer.send(secret + b" " + ANSWER_FIELDS + b"\r\n")
            return
        if path == b"cut":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + ANSWER_FIELDS + b"\r\n" + secret)
            return
        if path in (b"chunks", b"bad-chunks"):
            end = b"0\r\n\r\n" if path == b"chunks" else secret + b"\r\n"
            content = b"%x\r\n%b\r\n" % (len(secret), secret)
            head = b"HTTP/1.1 302 " + secret + b"\r\nTransfer-Encoding: chunked\r\n"
            await peer.send(head + ANSWER_FIELDS + b"\r\n" + content + end)
            return
        if path == b"slow":
            await hang(peer)
            return
        await peer.send(OK.replace(b"\r\n\r\n", b"\r\n" + ANSWER_FIELDS + b"\r\n"))
        return


async def send(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes, and return what comes back."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(*address, limit=2**22), PATIENCE)
    peer = Peer(reader, writer)
    received = b""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await peer.send(data)
        peer.writer.write_eof() if b"no end" in data else None
        received = await asyncio.wait_for(peer.reader.read(2**20), 2)
    await peer.close()
    return received


def found(text: str) -> dict[str, list[str]]:
    """Which secrets are in a text, and the lines that have them."""
    lines = text.splitlines()
    hits = {place: [line[:300] for line in lines if word in line.lower()] for place, word in WORDS.items()}
    return {place: lines for place, lines in hits.items() if lines}


def address_of(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.split(":")[2].split("/", maxsplit=1)[0])


async def add_routes(chp: Proxy, server: Backend) -> None:
    secret = "k={the query of a target}".format_map(WORDS)
    targets = dict.fromkeys(PATHS, server.url)
    targets |= {"refused": dead_url(), "unknown": "http://no-such-name.invalid"}
    for path, url in targets.items():
        body = json.dumps({"target": f"{url}/base?{secret}", "password": CONTENT})
        answer = await fetch(
            f"{chp.api_url}/{path}", method="POST", body=body, headers={"Authorization": f"token {TOKEN}"}
        )
        assert answer.code == 201


async def provoke(chp: Proxy) -> list[tuple[bytes, bytes]]:
    """Send everything; return what was sent, and what came back."""
    exchanges: list[tuple[bytes, bytes]] = []
    places = asyncio.Semaphore(20)

    async def ask(url: str, data: bytes) -> None:
        async with places:
            exchanges.append((data, await send(address_of(url), data)))

    await asyncio.gather(*(ask(chp.url, data) for data in requests()))
    await asyncio.gather(*(ask(chp.api_url, data) for data in api_requests()))
    return exchanges


@pytest.mark.timeout(seconds=90)
@pytest.mark.parametrize(
    ("options", "error_target"),
    [
        (("--upstream", "direct", "--event-loop", "asyncio"), ""),
        (("--upstream", "curl"), "ok"),
        (("--log-json",), "garbage"),
    ],
    ids=["direct", "curl", "json"],
)
async def test_secrets_stay_secret(options: tuple[str, ...], error_target: str, tmp_path: Path) -> None:
    async with backend(serve) as server:
        if error_target:
            query = f"k={WORDS['the query of a target']}"
            options = (*options, "--error-target", f"{server.url}/{error_target}?{query}")
        config = tmp_path / "config.py"
        config.write_text(CONFIG)
        options = ("--config", str(config), *OPTIONS, *options)
        with running(Proxy(tmp_path, *options, CONFIGPROXY_AUTH_TOKEN=TOKEN)) as chp:
            metrics_url = chp.wait_for(r"Serve metrics at (http://[^\s\"]+)")[1]
            await add_routes(chp, server)
            exchanges = await provoke(chp)
            for url in (metrics_url, metrics_url + "?" + QUERY, metrics_url + "x?" + QUERY):
                answer = await fetch(url, headers={"Authorization": f"token {WORDS['Authorization']}"})
                assert not found(answer.body.decode())
            assert chp.stop() == 0
        log = chp.log
        for line in (
            "PROXY WEB",
            "PROXY WS",
            "503 GET /",
            "404 GET /no-route",
            "cut: ",
            "400 to",
            "proxy_request",
        ):
            assert line in log, f"nothing has provoked {line!r}"
        assert not found(log), found(log)
    for data, received in exchanges:
        status = received[9:12]
        # An error target may say what it likes.
        if status in OWN_STATUSES and not (error_target == "ok" and status in (b"404", b"503")):
            hits = found(received.decode("latin-1"))
            assert not hits or _says_what_was_wrong(data, status), (data[:200], received[:300])


def _says_what_was_wrong(data: bytes, status: bytes) -> bool:
    """The API tells who has the token what was wrong with a request, and may quote it."""
    return status == b"400" and b" /api/" in data and b" " + TOKEN.encode() + b"\r\n" in data


OWN_STATUSES = frozenset(b"400 403 404 405 408 413 414 431 500 501 503".split())
OPTIONS = (
    *("--log-level", "debug", "--metrics-ip", "127.0.0.1", "--metrics-port", "0"),
    *("--proxy-timeout", "300", "--timeout", "600", "--connect-timeout", "300", "--head-timeout", "400"),
)
CONFIG = """
def complain(request):
    if request.target.startswith(b"/base/ok") and request.method == b"DELETE":
        raise ValueError("no DELETE")


c.ConfigurableProxy.proxy_request = complain
"""


def test_the_words_would_be_found() -> None:
    for place, word in WORDS.items():
        assert found(f"x\n503 GET /?{word} y")[place]
