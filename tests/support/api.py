"""The REST API with its table, for tests of what it answers."""

from __future__ import annotations

import json
import logging
from typing import Any

from chp.handlers.api import make_api_application
from chp.metrics import Metrics
from chp.routing.storage import MemoryStore
from chp.routing.table import RouteTable

LOG = logging.getLogger("test.api")
LIMIT = 2000  # bytes of a body


class Api:
    """An API with its table; ``async with serve(api.application) as client``."""

    def __init__(
        self, token: str = "", *, host_routing: bool = False, store: Any = None, limit: int = LIMIT
    ) -> None:
        self.metrics = Metrics()
        self.table = RouteTable(
            store or MemoryStore({}),
            self.metrics,
            LOG,
            host_routing=host_routing,
            on_retired=lambda target: None,
        )
        self.application = make_api_application(
            self.table, self.metrics, LOG, auth_token=token, max_body_size=limit
        )

    async def add(self, *paths: str) -> None:
        for path in paths:
            await self.table.add(path, {"target": "http://127.0.0.1:9000"})


def route(**data: object) -> bytes:
    return json.dumps({"target": "http://127.0.0.1:9000", **data}).encode()
