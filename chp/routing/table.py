"""The route table: what the REST API changes, and every request reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from time import perf_counter, time
from types import MappingProxyType
from typing import TypeVar

from chp.errors import InvalidTarget, StorageError
from chp.http1.target import Target
from chp.metrics import Metrics
from chp.routing.hosts import normal_host
from chp.routing.route import Route, format_time
from chp.routing.storage.base import RouteStore
from chp.routing.trie import Trie

__all__ = ["Route", "RouteTable", "clean_path", "printable"]

ACTIVITY_INTERVAL = 5.0  # seconds between writes of last activities to the store
STORE_TIMEOUT = 10.0  # seconds that one call of the store may take
CHANGES_PER_TURN = 100  # of many: about a millisecond of work, then others have their turn

T = TypeVar("T")


class RouteTable:
    """All routes of one proxy.

    Everything is answered from memory; the store is written first, one
    change at a time, and what it refuses does not happen. Made and used on
    one event loop; :meth:`load` comes first, :meth:`close` last.
    """

    def __init__(
        self,
        store: RouteStore,
        metrics: Metrics,
        log: logging.Logger,
        *,
        host_routing: bool,
        on_retired: Callable[[Target], None],
    ) -> None:
        """``on_retired`` is told each target that a route no longer has."""
        self._store = store
        self._metrics = metrics
        self._log = log
        self._host_routing = host_routing
        self._on_retired = on_retired
        self._routes: dict[str, Route] = {}
        self._trie: Trie[Route] = Trie()
        self._added = asyncio.Event()
        self._lock = asyncio.Lock()
        self._activity_task: asyncio.Task[None] | None = None

    # Reading.

    def find(self, path: str, host: str) -> Route | None:
        """Return the route for a request: the longest prefix of whole segments.

        ``path`` is decoded and begins with a slash. ``host`` counts with host
        routing only, and must be a :func:`~chp.routing.hosts.normal_host`.
        """
        started = perf_counter()
        segments = path.split("/", self._trie.depth)
        if self._host_routing:
            segments[0] = host  # it was empty: the path begins with a slash
        route = self._trie.find(segments)
        metrics = self._metrics
        metrics.find_target_count += 1
        metrics.find_target_seconds += perf_counter() - started
        return route

    def get(self, path: str) -> Route | None:
        """Return the route with exactly this path."""
        return self._trie.get(self._segments(clean_path(path)))

    def routes(self) -> Mapping[str, Route]:
        """Return a read-only view of all routes by path."""
        return MappingProxyType(self._routes)

    async def until_there(self, path: str) -> None:
        """Wait until there is a route with exactly this path."""
        while self.get(path) is None:
            self._added.clear()
            await self._added.wait()

    # Changing.

    async def load(self) -> None:
        """Take over what the store kept, and begin to write activities to it.

        Raises :class:`StorageError`. A route that can't be used is left out,
        with an error in the log.
        """
        for path, data in (await self._call_store(self._store.load())).items():
            try:
                route = self._make_route(path, data, _parse_time(data.get("last_activity")))
            except InvalidTarget:
                self._log.error("Route %s of the store has no usable target: left out", printable(path))
            else:
                self._put(route)
        if self._store.keeps_activity and self._activity_task is None:
            self._activity_task = asyncio.create_task(self._write_activities_regularly())

    async def add(self, path: str, data: Mapping[str, object]) -> None:
        """Add a route, or replace the one with this path.

        ``data`` is the posted JSON object: ``target``, and what else is to be
        kept. Raises :class:`InvalidTarget` or :class:`StorageError`; then
        nothing has changed.
        """
        route = self._make_route(path, data, time())
        self._log.info("Adding route %s", _line(route))
        async with self._lock:
            await self._change({route.path: route})
        self._log.info("Route added %s", _line(route))

    async def remove(self, path: str) -> bool:
        """Remove the route with exactly this path; its children stay.

        Tells whether there was one. Raises :class:`StorageError`; then
        nothing has changed.
        """
        async with self._lock:
            route = self.get(path)
            if route is None:
                return False
            self._log.info("Removing route %s", printable(route.path))
            await self._change({route.path: None})
        return True

    async def change(self, changes: Mapping[str, Mapping[str, object] | None]) -> tuple[int, int]:
        """Add or replace the routes that have data, remove those that have None; others stay.

        All of it or nothing. It is no error if a route that is to be removed
        does not exist. Returns how many were added and removed. Raises
        :class:`InvalidTarget`, with the path, or :class:`StorageError`; then
        nothing has changed.
        """
        now = time()
        by_key: dict[tuple[str, ...], tuple[str, Route | None]] = {}  # a host has many spellings
        for number, (path, data) in enumerate(changes.items(), 1):
            try:
                route = None if data is None else self._make_route(path, data, now)
            except InvalidTarget as error:
                raise InvalidTarget(f"{printable(path)}: {error}") from None
            cleaned = clean_path(path)
            by_key[tuple(self._segments(cleaned))] = (cleaned, route)
            await _let_others_run(number)
        async with self._lock:
            routes = {path: route for path, route in by_key.values() if route or self.get(path)}
            await self._change(routes)
        added = 0
        for number, (path, route) in enumerate(routes.items(), 1):
            if route is None:
                self._log.info("Removing route %s", printable(path))
            else:
                added += 1
                self._log.info("Route added %s", _line(route))
            await _let_others_run(number)
        return added, len(routes) - added

    async def close(self) -> None:
        """Write what is left to write and close the store; errors are logged."""
        if self._activity_task is not None:
            self._activity_task.cancel()
            await asyncio.wait([self._activity_task])
            self._activity_task = None
            await self._write_activities()
        try:
            await self._call_store(self._store.close())
        except StorageError as error:
            self._log.error("%s", error)

    # The rest is our own.

    def _segments(self, path: str) -> list[str]:
        """Return the key of a path: the host (empty without host routing), then its segments.

        "/" is the root, which every request begins with.
        """
        if path == "/":
            return []
        if not self._host_routing:
            return path.split("/")
        segments = path[1:].split("/")
        segments[0] = normal_host(segments[0])
        return segments

    def _make_route(self, path: str, data: Mapping[str, object], last_activity: float) -> Route:
        path = clean_path(path)
        url = data.get("target")
        if not isinstance(url, str):
            raise InvalidTarget("Must specify 'target' as string")
        target = Target.parse(url)
        extra = {key: value for key, value in data.items() if key not in ("target", "last_activity")}
        if self._host_routing and path != "/":
            extra["host"] = path.split("/")[1]
        depth = max(len(self._segments(path)) - 1, 0)
        return Route(path, target, extra, last_activity=last_activity, depth=depth, metrics=self._metrics)

    async def _change(self, routes: Mapping[str, Route | None]) -> None:
        """Write to the store, then change the table. The caller has the lock, and removes what there is."""
        writes: dict[str, dict[str, object] | None] = {}
        for path, route in routes.items():
            old = self.get(path)
            if old is not None and old.path != path:
                # The same host in other letters: one route, under its new name.
                writes[old.path] = None
            if route is not None:
                writes[path] = route.as_json()
            elif old is not None:
                writes[old.path] = None
        await self._call_store(self._store.change(writes))
        for path, route in routes.items():
            if route is None:
                self._take_out(path)
            else:
                self._put(route)

    def _take_out(self, path: str) -> None:
        route = self.get(path)
        if route is not None:
            self._trie.remove(self._segments(route.path))
            del self._routes[route.path]
            self._on_retired(route.target)

    def _put(self, route: Route) -> None:
        segments = self._segments(route.path)
        old = self._trie.get(segments)
        if old is None:
            self._trie.set(segments, route)
            self._routes[route.path] = route
            self._added.set()
            return
        retired = old.target
        if old.path != route.path:
            del self._routes[old.path]
            self._routes[route.path] = old
            old.path = route.path
        old.target = route.target
        old.data = route.data
        old.last_activity = old.saved_activity = route.last_activity
        if retired.url != route.target.url:
            self._on_retired(retired)

    async def _call_store(self, call: Awaitable[T]) -> T:
        """Await the store. Whatever goes wrong in it becomes a :class:`StorageError` of one line."""
        try:
            return await asyncio.wait_for(call, STORE_TIMEOUT)
        except asyncio.TimeoutError:
            raise StorageError(f"The route store did not answer within {STORE_TIMEOUT:g} seconds") from None
        except Exception as error:
            text = " ".join(str(error).split())
            raise StorageError(f"The route store failed: {text or type(error).__name__}") from error

    async def _write_activities_regularly(self) -> None:
        while True:
            await asyncio.sleep(ACTIVITY_INTERVAL)
            await self._write_activities()

    async def _write_activities(self) -> None:
        """Tell the store what has moved; after an error the rest waits for the next time."""
        moved = [route for route in self._routes.values() if route.last_activity != route.saved_activity]
        for route in moved:
            async with self._lock:
                if self._routes.get(route.path) is not route:
                    continue  # removed in the meantime
                started = perf_counter()
                activity = route.last_activity
                try:
                    await self._call_store(
                        self._store.update(route.path, {"last_activity": format_time(activity)})
                    )
                except StorageError as error:
                    self._log.error("Last activities are not saved: %s", error)
                    return
                route.saved_activity = activity
                self._metrics.last_activity_seconds += perf_counter() - started


def clean_path(path: str) -> str:
    """Give a route's path its leading slash and take the trailing ones away, as in CHP."""
    if not path.startswith("/"):
        path = "/" + path
    return path.rstrip("/") or "/"


def printable(text: str) -> str:
    """Return text for a log line: nothing in it can begin a new line or upset a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


async def _let_others_run(number: int) -> None:
    if number % CHANGES_PER_TURN == 0:
        await asyncio.sleep(0)


def _line(route: Route) -> str:
    """Describe a route in the log: without the target's query, which may hold secrets."""
    return f"{printable(route.path)} -> {printable(route.target.url.partition('?')[0])}"


def _parse_time(value: object) -> float:
    """Read what :func:`format_time` wrote; now, if it is anything else."""
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return time()
