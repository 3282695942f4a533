"""The default store: routes end with the process, as in CHP. JupyterHub adds them again."""

from __future__ import annotations

from chp.routing.storage.base import Changes, RouteStore


class MemoryStore(RouteStore):
    """Keeps nothing: the route table itself is the memory."""

    async def load(self) -> dict[str, object]:
        return {}

    async def change(self, changes: Changes) -> None:
        pass
