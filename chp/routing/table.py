"""The route table: what the REST API changes, and every request reads."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from time import perf_counter, time
from types import MappingProxyType

from chp.errors import InvalidTarget, StorageError
from chp.http1.target import Target
from chp.metrics import Metrics
from chp.routing.hosts import normal_host
from chp.routing.route import Route, parse_time
from chp.routing.storage.base import RouteStore, SharedStore
from chp.routing.storage.link import StoreLink
from chp.routing.storage.solo import SoloStore
from chp.routing.trie import Trie

__all__ = ["Route", "RouteTable", "clean_path", "printable"]

CHANGES_PER_TURN = 100  # of many: about a millisecond of work, then others have their turn


class RouteTable:
    """All routes of one proxy.

    Everything is answered from memory; the store is written first, one
    change at a time, and what it refuses does not happen. ``link`` is the
    connection to it. Made and used on one event loop; :meth:`load` comes
    first, :meth:`close` last.
    """

    def __init__(
        self,
        store: RouteStore | SharedStore,
        metrics: Metrics,
        log: logging.Logger,
        *,
        host_routing: bool,
        on_retired: Callable[[Target], None],
        default_target: str = "",
        patience: float = 0,
    ) -> None:
        """``on_retired`` is told each target that a route no longer has.

        ``default_target`` is the target of a route ``/`` that the store is not
        told of; one that is posted, here or elsewhere, takes its place.
        Raises :class:`InvalidTarget` for it. ``patience`` is how many
        seconds requests may wait for changes that are known to be missing.
        """
        shared = SoloStore(store) if isinstance(store, RouteStore) else store
        self.link = StoreLink(shared, self, metrics, log, patience=patience)
        self._metrics = metrics
        self._log = log
        self._host_routing = host_routing
        self._on_retired = on_retired
        self._routes: dict[str, Route] = {}
        self._trie: Trie[Route] = Trie()
        self._added = asyncio.Event()
        self._default: Route | None = None
        if default_target:
            self._default = self._make_route("/", {"target": default_target}, time())
            self._put(self._default)
            self._log.info("Route added %s", _line(self._default))

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

    async def load(self, at_start: str = "exit", waits: Callable[[StorageError], None] | None = None) -> None:
        """Take over what the store has, and keep up with it from then on.

        ``at_start`` is for a store that can't be read: wait, serve what is
        there, or raise :class:`StorageError`. A route that can't be used is
        left out, with an error in the log. ``waits`` is told each time that the
        store has to be waited for.
        """
        await self.link.start(at_start, waits)

    async def add(self, path: str, data: Mapping[str, object]) -> None:
        """Add a route, or replace the one with this path.

        ``data`` is the posted JSON object: ``target``, and what else is to be
        kept. Raises :class:`InvalidTarget` or :class:`StorageError`; then
        nothing has changed.
        """
        route = self._make_route(path, data, time())
        self._log.info("Adding route %s", _line(route))
        async with self.link.lock:
            await self._change({route.path: route})
        self._log.info("Route added %s", _line(route))

    async def remove(self, path: str) -> bool:
        """Remove the route with exactly this path; its children stay.

        Tells whether there was one. Raises :class:`StorageError`; then
        nothing has changed.
        """
        await self.link.caught_up()
        async with self.link.lock:
            route = self.get(path)
            if route is None:
                self.link.check()  # it may be there without our knowing
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
        await self.link.caught_up()
        async with self.link.lock:
            self.link.check()
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
        """Save what is left to save and close the store; errors are logged."""
        await self.link.close()

    # For the link: what others have changed.

    async def replace(self, routes: Mapping[str, object], activities: Mapping[str, str]) -> None:
        """Take over everything that the store has, and nothing else."""
        made = await self._read_routes(routes)
        for number, (path, text) in enumerate(activities.items(), 1):
            route = made.get(path)
            if route is not None:
                route.hear_of_activity(text)
            await _let_others_run(number)
        await asyncio.sleep(0)
        # Of two spellings of one host the one that was used last stays, in all proxies.
        new = sorted(
            (route for route in made.values() if route is not None),
            key=lambda route: (route.last_activity, route.path),
        )
        await asyncio.sleep(0)
        left = dict(self._routes)
        for number, route in enumerate(new, 1):
            old = self.get(route.path)
            if old is not None:
                left.pop(old.path, None)
            self._put(route)
            await _let_others_run(number)
        for number, old in enumerate(left.values(), 1):
            if old is not self._default:
                self._take_out(old)
            await _let_others_run(number)

    async def apply(self, routes: Mapping[str, object]) -> None:
        """Make a change of another proxy: None removes."""
        made = await self._read_routes(routes)
        for number, (path, route) in enumerate(made.items(), 1):
            self._apply({path: route}, ours=False)
            if route is None:
                self._log.info("Removed by another proxy: route %s", printable(path))
            else:
                self._log.info("Added by another proxy: route %s", _line(route))
            await _let_others_run(number)

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

    async def _read_routes(self, routes: Mapping[str, object]) -> dict[str, Route | None]:
        """Make routes of what the store gave; what can't be used is left out, with an error in the log."""
        made: dict[str, Route | None] = {}
        for number, (path, data) in enumerate(routes.items(), 1):
            try:
                made[path] = None if data is None else self._read_route(path, data)
            except (ValueError, RecursionError) as error:  # InvalidTarget is a ValueError
                what = "has no usable target" if isinstance(error, InvalidTarget) else "is none of ours"
                self._log.error("Route %s of the store %s: left out", printable(str(path)), what)
            await _let_others_run(number)
        return made

    def _read_route(self, path: object, data: object) -> Route:
        if not isinstance(path, str):
            raise ValueError("not a path")
        path.encode()  # the store may have found bytes that are no text
        if isinstance(data, str):
            data = json.loads(data, parse_constant=_refuse_constant)
        if not isinstance(data, Mapping) or path != clean_path(path):
            raise ValueError("not a route")
        moment = parse_time(data.get("last_activity"))
        return self._make_route(path, data, time() if moment is None else moment)

    async def _change(self, routes: Mapping[str, Route | None]) -> None:
        """Write to the store, then change the table. The caller has the lock, and removes what there is."""
        writes: dict[str, dict[str, object] | None] = {}
        for number, (path, route) in enumerate(routes.items(), 1):
            old = self.get(path)
            if old is not None and old.path != path:
                # The same host in other letters: one route, under its new name.
                writes[old.path] = None
            if route is not None:
                writes[path] = route.as_json()
            elif old is not None and old is not self._default:
                writes[old.path] = None
            await _let_others_run(number)
        if writes:
            await self.link.change(writes, lambda: self._apply(routes, ours=True))
        else:
            self._apply(routes, ours=True)  # the default target, of which the store does not know

    def _apply(self, routes: Mapping[str, Route | None], *, ours: bool) -> None:
        for path, route in routes.items():
            old = self.get(path)
            if route is not None:
                self._put(route)
            elif old is not None and (ours or old is not self._default):
                self._take_out(old)

    def _take_out(self, route: Route) -> None:
        self._trie.remove(self._segments(route.path))
        del self._routes[route.path]
        self._on_retired(route.target)

    def _put(self, route: Route) -> None:
        segments = self._segments(route.path)
        old = self._trie.get(segments)
        if old is self._default:
            self._default = None  # another one takes its place
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
        old.use(route.target)
        old.data = route.data
        # What the store says counts, and beside it only what it does not know yet.
        unsaved = old.last_activity if old.last_activity != old.saved_activity else 0.0
        old.last_activity = max(unsaved, route.last_activity)
        old.saved_activity = route.last_activity
        if retired.url != route.target.url:
            self._on_retired(retired)


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


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
