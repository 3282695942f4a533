"""The contracts of route stores: where routes live while the proxy does not run.

:class:`RouteStore` is for the routes of one proxy, and a few lines long.
:class:`SharedStore` is for several proxies that serve the same routes.

What both have in common:

- A route is a path, such as ``/user/ada``, with a leading and no trailing
  slash, and a JSON object with ``target``, ``last_activity`` and whatever else
  was posted with it. Times are ISO 8601 in UTC, always of the same length
  (``2026-01-31T12:00:00.000Z``): a later one is a greater text.
- The methods run on the proxy's event loop, ``load`` first and ``close`` last,
  one at a time (``SharedStore.watch`` beside them). They must not block the
  loop (use ``asyncio.to_thread`` for blocking libraries), and are cancelled
  when they take too long: ten seconds for ``load``, five for the others.
- Any exception means that nothing has changed: the REST API answers 503 with
  its text, and the route table stays as it is. The text is logged, so it must
  not contain secrets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

# What is added or replaced, by path; None removes.
Changes = Mapping[str, dict[str, object] | None]

_NOTHING: Mapping[str, str] = MappingProxyType({})


class _Store:
    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config`` is this class's section of the configuration file.

        ``c.MyStore.path = "..."`` is ``config["path"]``; what is not set is
        missing. ``config["url"]`` is ``--storage-url``. An exception ends the
        proxy, with its text.
        """
        self.config = config

    async def close(self) -> None:
        """Let go of everything. Called once, also when ``load`` failed."""


class RouteStore(_Store, ABC):
    """Keeps the routes of one proxy, which reads them once, when it starts."""

    @abstractmethod
    async def load(self) -> Mapping[str, object]:
        """Return all routes by path: JSON objects, or their text."""

    @abstractmethod
    async def change(self, changes: Changes) -> None:
        """Add or replace the routes that have data, and remove those that have None, as one change.

        Returns when that is kept. To remove an unknown path is no error.
        """

    async def save_activities(self, times: Mapping[str, str]) -> None:
        """Keep these times as ``last_activity`` of the routes with these paths.

        Called every few seconds with what has moved. Unknown paths, which
        something else must have removed, are ignored.
        """


class Missed(Exception):
    """Changes were missed that the store no longer has: everything has to be loaded again."""


class Snapshot(NamedTuple):
    """Everything that a shared store has, at one moment."""

    position: str  # of the last change in it
    routes: Mapping[str, object]  # by path: JSON objects, or their text
    activities: Mapping[str, str] = _NOTHING  # last activities that are later than what the routes say


class Change(NamedTuple):
    """One change of a shared store.

    A position names the state of the store after a change. It is never used
    twice, not even by a store that was restored from a backup.
    """

    previous: str  # the position that it began with
    position: str  # the position that it led to
    routes: Mapping[str, object] = MappingProxyType({})  # by path: JSON objects, or their text; None: removed


class SharedStore(_Store, ABC):
    """Keeps the routes of several proxies, and tells each what the others have changed.

    The store puts all changes in one order. Every proxy applies them in this
    order, so that all end with the same table.
    """

    @abstractmethod
    async def load(self) -> Snapshot:
        """Return everything. Called again whenever changes were missed."""

    @abstractmethod
    async def change(self, changes: Changes) -> Change:
        """Make one change of it, as :meth:`RouteStore.change` does; ``routes`` of the result is not used."""

    @abstractmethod
    def watch(self, position: str) -> AsyncGenerator[Change | None, None]:
        """Yield each change after this position in the store's order, those of this proxy among them.

        None says that this is all for now, and at least every two seconds that
        the store is still there. Raises :class:`Missed` when changes after
        this position are lost. A generator that ends says that nobody else
        changes the store.
        """

    @abstractmethod
    async def exchange_activities(self, times: Mapping[str, str]) -> Mapping[str, str]:
        """Keep these times where they are later than what is known; unknown paths are ignored.

        Returns what was saved by any proxy since the last call (or ``load``).
        """
