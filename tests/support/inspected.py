"""A running ``chp`` that shows what it holds: descriptors, memory, gauges, and its living objects."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from support.commands import Proxy, fetch
from support.wire import PATIENCE, Message, Peer, backend, until

MIB = 2**20
# Seconds in which what is left over has to go.
_SETTLES = 5.0
# What objects have when they are seen again and again: timers that were cancelled stay in the heap of
# the loop for a while, and of each origin something is remembered, which is bounded.
_UNSTEADY = {
    "asyncio.events.TimerHandle",
    "asyncio.events.Handle",
    "chp.http1.target.Origin",
    "chp.repeats._Kind",  # of log lines, for a minute
}
_IN_PASSING = 5

# A hook sees every outgoing request; this one acts on a single path.
_CONFIG = """
def inspect(request):
    if request.target != b"/inspect":
        return
    import collections
    import gc
    import json

    gc.collect()
    counts = collections.Counter()
    for it in gc.get_objects():
        kind = type(it)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name.startswith(("chp.", "uvloop.", "asyncio.", "_asyncio.", "pycurl.", "ssl.")):
            counts[name] += 1
    with open("objects.json", "w") as file:
        json.dump(counts, file)


c.ConfigurableProxy.proxy_request = inspect
"""

_GAUGE = re.compile(
    r'^(chp_client_connections|chp_tunnels|chp_routes|chp_upstream_connections\{state="\w+"\}) (\d+)',
    re.MULTILINE,
)

Work = Callable[[int], Awaitable[None]]


class Holdings(NamedTuple):
    gauges: dict[str, int]
    descriptors: int
    objects: dict[str, int]


def _growth(before: dict[str, int], after: dict[str, int]) -> dict[str, str]:
    """What there is more of. The last calls of the API may still have a few objects of the libraries."""
    return {
        name: f"{before.get(name, 0)} -> {count}"
        for name, count in after.items()
        if count > before.get(name, 0) + (0 if name.startswith("chp.") else _IN_PASSING)
    }


class InspectedProxy(Proxy):
    """The installed command, with a dead error target and idle connections that soon end."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._objects = directory / "objects.json"
        config = directory / "inspect_config.py"
        config.write_text(_CONFIG)
        super().__init__(
            directory,
            *("--config", str(config), "--metrics-ip", "127.0.0.1", "--metrics-port", "0"),
            *("--error-target", "http://127.0.0.1:1/error", "--pool-idle-timeout", "200"),
            *("--keep-alive-timeout", "60000", "--head-timeout", "1000", "--log-level", "info"),
            *options,
        )
        self.metrics_url = self.wait_for(r"Serve metrics at (http://\S+)")[1]
        self.port = int(self.url.rpartition(":")[2])
        self.checked = 0  # bytes of the log that a test has looked at

    async def connect(self) -> Peer:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", self.port, limit=MIB), PATIENCE
        )
        return Peer(reader, writer)

    async def request(self, data: bytes) -> Message:
        peer = await self.connect()
        try:
            await peer.send(data)
            return await peer.receive_message()
        finally:
            peer.abort()

    async def remove_route(self, path: str) -> None:
        assert (await self.api("DELETE", path)).code == 204

    @asynccontextmanager
    async def route(self, path: str, target: str) -> AsyncIterator[None]:
        await self.add_route(path, target)
        try:
            yield
        finally:
            await self.remove_route(path)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def gauges(self) -> dict[str, int]:
        page = (await fetch(self.metrics_url)).body.decode()
        return {name: int(value) for name, value in _GAUGE.findall(page)}

    async def objects(self) -> dict[str, int]:
        """Count the living objects of our classes, and of transports, tasks and handles."""
        self._objects.unlink(missing_ok=True)
        async with backend() as server, self.route("/inspect", server.url):
            peer = await self.connect()
            for path in (b"/_chp_healthz", b"/inspect"):  # when it is accepted, and the API at rest
                await peer.send(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await peer.receive_message()).status == 200
            await peer.close()
        counts: dict[str, int] = json.loads(self._objects.read_text())
        return {name: count for name, count in counts.items() if name not in _UNSTEADY}

    async def at_rest(self) -> Holdings:
        """Return what it holds when nobody asks for anything."""
        await self.settled({"chp_client_connections": 0, "chp_tunnels": 0})
        objects = await self.objects()
        await self.settled({"chp_client_connections": 0, "chp_tunnels": 0})
        return Holdings(await self.gauges(), self.descriptors(), objects)

    async def settled(self, wanted: dict[str, int]) -> None:
        """Wait until these gauges, and those of upstream connections, are as they should be."""
        idle = {'chp_upstream_connections{state="active"}': 0, 'chp_upstream_connections{state="idle"}': 0}
        wanted = {**wanted, **idle}
        gauges: dict[str, int] = {}
        for _ in range(int(_SETTLES / 0.1)):
            gauges = await self.gauges()
            if wanted.items() <= gauges.items():
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{gauges} do not become {wanted}")

    async def leaves_nothing(self, work: Work, count: int, *, memory: int = 8 * MIB) -> None:
        """Have some work done, and again ``count`` times as much: the second time must leave nothing.

        ``memory`` is how many bytes the process may have grown by.
        """
        await work(max(20, count // 10))
        before = await self.at_rest()
        size = self.memory()
        await work(count)
        await self.settled(before.gauges)
        await until(lambda: self.descriptors() <= before.descriptors, _SETTLES)
        gives_up = monotonic() + _SETTLES
        while grown := _growth(before.objects, await self.objects()):
            assert monotonic() < gives_up, grown
            await asyncio.sleep(0.3)
        assert self.memory() - size < memory, f"{size} -> {self.memory()} bytes"
        self.check_log()

    def check_log(self) -> None:
        """Nothing went wrong in the proxy itself."""
        text, start = self.log, self.checked
        self.checked = len(text)
        for word in ("Traceback", "Error in", "exception", "Exception", "never retrieved"):
            assert word not in text[start:], text[start:][-5000:]


async def crowd(count: int, one: Callable[[int], Awaitable[None]], *, width: int = 40) -> None:
    """Run ``one(number)`` for so many numbers, some of them at a time."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(some() for _ in range(width)))
