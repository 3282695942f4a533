"""Stores of one proxy: as a shared store that nobody else changes, and those with synchronous methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime, timezone
from typing import Any

from chp.routing.storage.base import Change, Changes, RouteStore, SharedStore, Snapshot

# What the synchronous stores of another proxy in Python have; get_target() is not needed.
SYNCHRONOUS_METHODS = ("get_all", "add", "update", "remove")


class SoloStore(SharedStore):
    """A :class:`RouteStore`, with the contract of shared stores."""

    def __init__(self, store: RouteStore) -> None:
        super().__init__(store.config)
        self._store = store
        self._count = 0
        self._position = ""

    async def load(self) -> Snapshot:
        return Snapshot(self._position, await self._store.load())

    async def change(self, changes: Changes) -> Change:
        await self._store.change(changes)
        self._count += 1
        previous, self._position = self._position, str(self._count)
        return Change(previous, self._position)

    async def watch(self, position: str) -> AsyncGenerator[Change | None, None]:
        return
        yield  # which makes it a generator

    async def exchange_activities(self, times: Mapping[str, str]) -> Mapping[str, str]:
        if times:
            await self._store.save_activities(times)
        return {}

    async def close(self) -> None:
        await self._store.close()


class SynchronousStore(RouteStore):
    """Runs a store with ``get_all``, ``add``, ``update`` and ``remove`` in a thread.

    A change of several routes is not one there: what was done before an
    exception stays done.
    """

    def __init__(self, store: Any) -> None:
        super().__init__({})
        self._store = store

    async def load(self) -> Mapping[str, object]:
        return await asyncio.to_thread(self._load)

    async def change(self, changes: Changes) -> None:
        await asyncio.to_thread(self._change, changes)

    async def save_activities(self, times: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._save_activities, times)

    async def close(self) -> None:
        if hasattr(self._store, "close"):
            await asyncio.to_thread(self._store.close)

    # In the thread.

    def _load(self) -> Mapping[str, object]:
        return {
            "/" + path.strip("/"): {key: _as_json(value) for key, value in data.items()}
            for path, data in self._store.get_all().items()
        }

    def _change(self, changes: Changes) -> None:
        for path, data in changes.items():
            if data is None:
                self._store.remove(path)
            else:
                self._store.add(path, data)

    def _save_activities(self, times: Mapping[str, str]) -> None:
        known = self._load()
        for path, moment in times.items():
            if path in known:
                self._store.update(path, {"last_activity": moment})


def _as_json(value: object) -> object:
    """Write times as text: some of these stores keep them as objects."""
    if isinstance(value, datetime):
        value = value.replace(tzinfo=value.tzinfo or timezone.utc)
        return value.astimezone(timezone.utc).isoformat()
    return value
