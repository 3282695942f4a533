"""CPU time of the proxy for a small keep-alive request: chp with uvloop, chp without, and CHP on Node.

    python benchmarks/small_request.py --seconds 5

Everything runs on this machine, one proxy after the other, in front of the same backend. CPU time
(user and system, of the proxy's process alone) says more than requests per second, because backend
and load generator share the machine's cores. Trust the ratios: they move less than the figures.

The load comes from ``wrk`` if it is there, else from an asyncio client. configurable-http-proxy is
taken from ``--node-chp``, else npm installs it into a temporary folder; without Node it is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

try:
    import uvloop
except ImportError:
    uvloop = None

HOST = "127.0.0.1"
PATH = "/user/ada/api/status"
CONNECTIONS = 16
WARM_UP = 1  # seconds
START_TIMEOUT = 15.0
INSTALL_TIMEOUT = 120.0
NODE_PACKAGE = "configurable-http-proxy@5.3.0"

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\n\r\n".encode()
END_OF_HEAD = b"\r\n\r\n"


class Load(NamedTuple):
    """What the load generator saw."""

    requests: int
    failures: int


class Result(NamedTuple):
    name: str
    requests_per_second: float
    cpu_per_request: float  # microseconds


# -- the backend, a process of its own ------------------------------------------------------


class Backend(asyncio.Protocol):
    """Answers each head with the same response."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(END_OF_HEAD)
        self.transport.write(RESPONSE * len(heads))  # type: ignore[attr-defined]


async def serve_backend() -> None:
    server = await asyncio.get_running_loop().create_server(Backend, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def run_fast(coroutine) -> None:  # type: ignore[no-untyped-def]
    """Run on uvloop where it is installed, so that the proxy is what is slow."""
    if uvloop:
        with contextlib.closing(uvloop.new_event_loop()) as loop:
            loop.run_until_complete(coroutine)
    else:
        asyncio.run(coroutine)


# -- the load -------------------------------------------------------------------------------


def generate_load(port: int, seconds: float) -> Load:
    url = f"http://{HOST}:{port}{PATH}"
    if shutil.which("wrk"):
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", url]
        text = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=seconds + 30
        ).stdout
        failures = sum(
            map(int, re.findall(r"(?:Non-2xx or 3xx responses|connect|read|write|timeout):? (\d+)", text))
        )
        return Load(int(re.search(r"(\d+) requests in", text)[1]), failures)  # type: ignore[index]
    loads: list[Load] = []
    run_fast(_generate_load(port, seconds, loads))
    return loads[0]


async def _generate_load(port: int, seconds: float, loads: list[Load]) -> None:
    ends = time.monotonic() + seconds

    async def client() -> Load:
        requests = failures = 0
        reader, writer = await asyncio.open_connection(HOST, port)
        while time.monotonic() < ends:
            writer.write(REQUEST)
            head = await reader.readuntil(END_OF_HEAD)
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            requests += 1
            failures += not head.startswith(b"HTTP/1.1 200 ")
        writer.close()
        return Load(requests, failures)

    clients = asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    each = await asyncio.wait_for(clients, seconds + 30)
    loads.append(Load(sum(load.requests for load in each), sum(load.failures for load in each)))


# -- the proxies ----------------------------------------------------------------------------


def proxy_commands(node_chp: str, folder: Path) -> dict[str, list[str]]:
    chp = [sys.executable, "-m", "chp", "--event-loop"]
    commands = {"chp, asyncio": [*chp, "asyncio"]}
    if uvloop:
        commands = {"chp, uvloop": [*chp, "uvloop"], **commands}
    else:
        print("uvloop is not installed: left out", file=sys.stderr)
    node = find_node_proxy(node_chp, folder)
    if node:
        commands["configurable-http-proxy, Node"] = node
    return commands


def find_node_proxy(given: str, folder: Path) -> list[str]:
    """Return the command of CHP on Node; empty if there is none."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if given:
        return [node, given] if node and Path(given).is_file() else sys.exit(f"can't run {given} with node")
    if not (node and npm):
        print("node and npm are not there: configurable-http-proxy is left out", file=sys.stderr)
        return []
    print(f"Installing {NODE_PACKAGE} into a temporary folder", file=sys.stderr)
    install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), NODE_PACKAGE]
    try:
        subprocess.run(install, check=True, capture_output=True, timeout=INSTALL_TIMEOUT)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"npm could not install it: left out ({error})", file=sys.stderr)
        return []
    return [node, str(folder / "node_modules/configurable-http-proxy/bin/configurable-http-proxy")]


@contextlib.contextmanager
def running(command: list[str], *, output: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=START_TIMEOUT)


def free_ports() -> tuple[int, int]:
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    gives_up = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < gives_up:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.05)
    sys.exit(f"{' '.join(map(str, process.args))} did not start")  # type: ignore[arg-type]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, command: list[str], backend_port: int, seconds: float) -> Result:
    port, api_port = free_ports()
    addresses = ["--ip", HOST, "--port", str(port), "--api-ip", HOST, "--api-port", str(api_port)]
    target = ["--default-target", f"http://{HOST}:{backend_port}", "--log-level", "error"]
    with running([*command, *addresses, *target]) as proxy:
        wait_for_port(port, proxy)
        generate_load(port, WARM_UP)
        began, cpu = time.monotonic(), cpu_seconds(proxy.pid)
        load = generate_load(port, seconds)
        cpu, took = cpu_seconds(proxy.pid) - cpu, time.monotonic() - began
    if load.failures or not load.requests:
        sys.exit(f"{name}: {load.failures} of {load.requests} requests failed")
    return Result(name, load.requests / took, cpu / load.requests * 1e6)


# -- the table ------------------------------------------------------------------------------


def print_table(results: list[Result]) -> None:
    compared = results[-1]
    print(f"{'':32}{'requests/s':>12}{'CPU µs/request':>18}{'ratio':>10}")
    for result in results:
        ratio = result.cpu_per_request / compared.cpu_per_request
        print(
            f"{result.name:32}{result.requests_per_second:12.0f}{result.cpu_per_request:18.1f}{ratio:10.2f}"
        )
    print(f"\nratio: CPU time per request, that of {compared.name} being 1")


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of the proxy for a small keep-alive request.")
    parser.add_argument("--seconds", type=float, default=5, help="how long each proxy is measured")
    parser.add_argument("--node-chp", default="", metavar="FILE", help="bin/configurable-http-proxy of CHP")
    parser.add_argument("--backend", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.backend:
        run_fast(serve_backend())
        return
    if not Path("/proc/self/stat").exists():
        sys.exit("CPU times are read from /proc, as Linux has it")
    with (
        tempfile.TemporaryDirectory() as folder,
        running([sys.executable, __file__, "--backend"], output=subprocess.PIPE) as backend,
    ):
        assert backend.stdout is not None
        backend_port = int(backend.stdout.readline())
        commands = proxy_commands(arguments.node_chp, Path(folder))
        results = [
            measure(name, command, backend_port, arguments.seconds) for name, command in commands.items()
        ]
    load = "wrk" if shutil.which("wrk") else "asyncio"
    print(f"Python {platform.python_version()}, {CONNECTIONS} connections, load from {load}\n")
    print_table(results)


if __name__ == "__main__":
    main()
