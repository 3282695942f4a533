"""The contract of route stores: where routes live while the proxy does not run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar


class RouteStore(ABC):
    """Keeps the routes of one proxy.

    The proxy answers everything from memory. It reads the store once, when
    it starts, and writes each change to it. A route is a path, such as
    ``/user/ada``, and a JSON object with ``target``, ``last_activity`` (ISO
    8601, UTC) and whatever else was posted with it.

    The methods are called on the proxy's event loop, one after the other:
    the next call comes when the last one has returned. :meth:`load` is the
    first and :meth:`close` the last. They must not block the loop (use
    ``asyncio.to_thread`` for blocking libraries), and are cancelled if they
    take longer than ten seconds. Any exception means that nothing has
    changed: the REST API answers 503 and the route table stays as it is.
    Its text is logged, so it must not contain secrets.
    """

    # Whether last activities are written, every few seconds, with update().
    keeps_activity: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config`` is this class's section of the configuration file.

        ``c.MyStore.url = "..."`` is ``config["url"]``; what is not set is
        missing. An exception ends the proxy, with its text.
        """
        self.config = config

    @abstractmethod
    async def load(self) -> Mapping[str, Mapping[str, object]]:
        """Return all routes by path."""

    @abstractmethod
    async def add(self, path: str, data: dict[str, object]) -> None:
        """Add a route, or replace the one with this path. ``data`` is the store's to keep."""

    @abstractmethod
    async def update(self, path: str, data: dict[str, object]) -> None:
        """Replace these keys of a route, and leave its other ones alone.

        An unknown path, which can only be one that something else removed,
        may be ignored.
        """

    @abstractmethod
    async def remove(self, path: str) -> None:
        """Remove a route; an unknown path is no error."""

    async def change(self, changes: Mapping[str, dict[str, object] | None]) -> None:
        """Add or replace the routes that have data, and remove those that have None.

        Every change that the REST API makes comes through this, most often as
        a single one. A store that can make several as one should: this one
        calls :meth:`add` and :meth:`remove` for each, and what it did before
        an exception stays done.
        """
        for path, data in changes.items():
            if data is None:
                await self.remove(path)
            else:
                await self.add(path, data)

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything. Called once, also when :meth:`load` failed."""
