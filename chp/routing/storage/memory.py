"""The default store: routes end with the process, as in CHP. JupyterHub adds them again."""

from __future__ import annotations

from typing import ClassVar

from chp.routing.storage.base import RouteStore


class MemoryStore(RouteStore):
    """Keeps nothing: the route table itself is the memory."""

    keeps_activity: ClassVar[bool] = False

    async def load(self) -> dict[str, dict[str, object]]:
        return {}

    async def add(self, path: str, data: dict[str, object]) -> None:
        pass

    async def update(self, path: str, data: dict[str, object]) -> None:
        pass

    async def remove(self, path: str) -> None:
        pass

    async def close(self) -> None:
        pass
