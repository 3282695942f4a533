"""The health check, the same on the proxy's and the redirecting server."""

from __future__ import annotations

HEALTH_PATH = b"/_chp_healthz"  # exactly; with a query it is a path like any other
HEALTH_BODY = b'{"status":"OK"}'
HEALTH_CONTENT_TYPE = b"application/json"
