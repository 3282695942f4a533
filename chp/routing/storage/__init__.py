"""Route stores: the contracts, and how one is chosen by name or URL."""

from __future__ import annotations

from chp.routing.storage.base import Change, Changes, Missed, RouteStore, SharedStore, Snapshot
from chp.routing.storage.choice import load_store
from chp.routing.storage.memory import MemoryStore

__all__ = [
    "Change",
    "Changes",
    "MemoryStore",
    "Missed",
    "RouteStore",
    "SharedStore",
    "Snapshot",
    "load_store",
]
