"""Coverage-guided fuzzing with atheris: ``make fuzz``, or with ``FUZZ_ARGS="responses -max_total_time=600"``.

Without a name, each of the checks has its turn. What follows it goes to libFuzzer. A finding ends
it: its input is in ``crash-...``, which can be given instead of options to see it again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["chp", "support"]):
    from support import fuzzed

SECONDS = 60  # for each check, unless told otherwise
MAX_LENGTH = 2000

_SEEDS = {
    "requests": [
        b"GET /a/b?c=d HTTP/1.1\r\nHost: h\r\nCookie: a=b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, x\r\nUpgrade: raw\r\nX-Forwarded-For: a\r\n\r\n",
    ],
    "responses": [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close, x\r\n\r\nabc",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.0 404 Not Found\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nabc",
    ],
    "heads": [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: x\r\nUpgrade: y\r\n\r\n"],
    "targets": [b"/a/%2e%2e/b?c", b"http://h:1/../x", b"*"],
    "texts": [
        b"http+unix://%2Frun/x",
        b'{"/a": {"target": "http://h", "x": [1.5]}}',
        b"2030-01-01T12:00:00.5+01:00",
    ],
    "locations": [b"http://target:81/x", b"https://[::1]:443"],
}


def _cut(data: bytes) -> tuple[bytes, list[int]]:
    """The first four bytes say where the rest is cut."""
    return data[4:], [data[at] * 7 for at in range(min(4, len(data)))]


def requests(data: bytes) -> None:
    fuzzed.check_requests(*_cut(data))


def responses(data: bytes) -> None:
    method, upgrade = ((b"GET", b""), (b"HEAD", b""), (b"GET", b"raw"))[data[0] % 3 if data else 0]
    fuzzed.check_response(*_cut(data), method, upgrade)


def texts(data: bytes) -> None:
    fuzzed.check_texts(data.decode("utf-8", "surrogateescape"))


CHECKS = {
    "requests": requests,
    "responses": responses,
    "heads": fuzzed.check_response_head,
    "targets": fuzzed.check_request_target,
    "texts": texts,
    "locations": fuzzed.check_location,
}


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in CHECKS:
        for name in CHECKS:
            command = [sys.executable, __file__, name, *(arguments or [f"-max_total_time={SECONDS}"])]
            subprocess.run(command, check=True)
        return
    name, *options = arguments
    corpus = Path("artifacts/fuzz") / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(_SEEDS[name]):
        prefix = bytes(4) if CHECKS[name] in (requests, responses) else b""
        (corpus / f"seed-{number}").write_bytes(prefix + seed)
    print(f"== {name}", flush=True)  # noqa: T201
    atheris.Setup([sys.argv[0], f"-max_len={MAX_LENGTH}", *options, str(corpus)], CHECKS[name])
    atheris.Fuzz()


main(sys.argv[1:])
