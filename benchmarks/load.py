"""HTTP load: wrk, and one request by hand whose answer is looked at byte by byte."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import HOST, Failure

CONNECTIONS = 32
PATIENCE = 30.0  # seconds beyond the time of a measurement


@dataclass
class Load:
    """What a load generator saw. All its operations succeeded."""

    operations: int
    seconds: float
    p50: float = 0.0  # seconds, as p99
    p99: float = 0.0
    more: dict[str, float] = field(default_factory=dict)  # figures of this workload only

    def per_second(self) -> float:
        return self.operations / self.seconds


def summary(latencies: list[float], seconds: float) -> Load:
    """Make a Load of the latencies of its operations, in seconds."""
    if not latencies:
        raise Failure("not one operation was complete")
    return Load(len(latencies), seconds, percentile(latencies, 0.5), percentile(latencies, 0.99))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


# Where there are several paths, they go round. What wrk counted goes to standard output as JSON.
_SCRIPT = """
local paths, sent = {PATHS}, 0
wrk.method = "METHOD"
wrk.headers["Connection"] = "CONNECTION"
if wrk.method == "POST" then wrk.body = string.rep("x", BODY) end
if #paths > 0 then
  local requests = {}
  init = function(args)
    for at, path in ipairs(paths) do requests[at] = wrk.format(nil, path) end
  end
  request = function()
    sent = sent + 1
    return requests[sent % #requests + 1]
  end
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{"operations":%d,"bytes":%d,"us":%d,"failed":%d,"p50":%d,"p99":%d}\\n',
    summary.requests, summary.bytes, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


async def run_wrk(
    url: str,
    seconds: int,
    *,
    size: int,
    upload: int = 0,
    close: bool = False,
    paths: Sequence[str] = (),
    connections: int = CONNECTIONS,
) -> Load:
    """Ask for a URL, over and over. ``size`` is that of an answer's content in bytes."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise Failure("wrk is missing: install it (make benchmark does)")
    script = _SCRIPT.replace("{PATHS}", "{" + ",".join(map(json.dumps, paths)) + "}")
    script = script.replace("METHOD", "POST" if upload else "GET").replace("BODY", str(upload))
    script = script.replace("CONNECTION", "close" if close else "keep-alive")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "load.lua")
        file.write_text(script)  # noqa: ASYNC240 - a moment, and nothing is measured yet
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(file), url]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), seconds + PATIENCE)
        finally:
            if process.returncode is None:
                process.kill()
    text = output.decode()
    if process.returncode or "{" not in text:
        raise Failure(f"wrk failed: {text}")
    seen = json.loads(text[text.rindex("{") :])
    if seen["failed"] or not seen["operations"] or seen["bytes"] < seen["operations"] * size:
        raise Failure(f"wrong answers from {url}: {seen}")
    return Load(seen["operations"], seen["us"] / 1e6, seen["p50"] / 1e6, seen["p99"] / 1e6)


def check_answer(port: int, tls: bool, path: str, expected: bytes, *, upload: int = 0) -> None:
    """See that the proxy gives the right answer, to the last byte."""
    if tls:
        context = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            HOST, port, context=context, timeout=10
        )
    else:
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("POST" if upload else "GET", path, body=b"x" * upload or None)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"no answer to {path}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200 or body != expected:
        raise Failure(f"wrong answer to {path}: {answer.status}, {len(body)} bytes")
