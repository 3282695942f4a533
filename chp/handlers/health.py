"""The health check, the same on the proxy's and the redirecting server."""

from __future__ import annotations

HEALTH_PATH = b"/_chp_healthz"  # exactly; with a query it is a path like any other
HEALTH_CONTENT_TYPE = b"application/json"


class Health:
    """What the health check answers: 503 as soon as the proxy is about to stop, for load balancers."""

    __slots__ = ("stopping",)

    def __init__(self) -> None:
        self.stopping = False

    def answer(self) -> tuple[int, bytes]:
        """Return status and content."""
        return (503, b'{"status":"stopping"}') if self.stopping else (200, b'{"status":"OK"}')
