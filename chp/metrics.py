"""Counters of the data plane: plain integers, read when somebody asks for them.

Adding to an attribute costs 20 ns, a prometheus-client counter 600; so nothing
here knows Prometheus. ``chp/handlers/metrics.py`` turns it into text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

# Seconds. Fine below a millisecond, where a proxy's own share is seen.
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Options that refuse something, or close a connection, when they are reached.
LIMITS = (
    "api_max_body_size",
    "head_timeout",
    "max_connections",
    "max_connections_per_address",
    "max_connections_per_target",
    "max_field_count",
    "max_head_size",
    "max_request_line",
    "tls_handshake_timeout",
)


class Histogram:
    """Counts of observations, one for each upper bound and one above them all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        # Most are below the first bound: to look there first spares a call.
        self.counts[0 if value <= self.bounds[0] else bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """All counters and gauges of one proxy. Nothing is ever labelled by path."""

    __slots__ = (
        "accept_pauses",
        "api_route_add",
        "api_route_delete",
        "api_route_get",
        "certificate_expiry",
        "certificate_reloads",
        "client_bytes_received",
        "client_bytes_sent",
        "client_connections",
        "client_connections_closed",
        "config_reloads",
        "find_target_count",
        "find_target_seconds",
        "first_byte_seconds",
        "last_activity_count",
        "last_activity_seconds",
        "limits_reached",
        "request_seconds",
        "requests_api",
        "requests_proxy",
        "requests_web",
        "requests_ws",
        "store_change_seconds",
        "store_changes",
        "store_errors",
        "store_loads",
        "store_up",
        "store_waits",
        "tunnels",
        "upstream_bytes_received",
        "upstream_bytes_sent",
        "upstream_connections",
        "upstream_connections_idle",
        "upstream_errors",
        "upstream_retries",
    )

    def __init__(self) -> None:
        # CHP's own.
        self.api_route_get = 0
        self.api_route_add = 0
        self.api_route_delete = 0
        self.requests_ws = 0
        self.requests_web = 0
        self.requests_proxy: Counter[int] = Counter()  # by status
        self.requests_api: Counter[int] = Counter()  # by status
        self.find_target_count = 0
        self.find_target_seconds = 0.0
        self.last_activity_count = 0
        self.last_activity_seconds = 0.0
        # Gauges.
        self.client_connections = 0
        self.tunnels = 0
        self.upstream_connections = 0  # open, idle ones included
        self.upstream_connections_idle = 0
        self.certificate_expiry: dict[str, int] = {}  # seconds since 1970, by server
        # Counters.
        self.client_bytes_received = 0
        self.client_bytes_sent = 0
        self.upstream_bytes_received = 0
        self.upstream_bytes_sent = 0
        self.client_connections_closed: Counter[str] = Counter()  # by reason
        self.upstream_errors: Counter[str] = Counter()  # by reason
        self.upstream_retries = 0
        self.accept_pauses = 0
        self.limits_reached = Counter(dict.fromkeys(LIMITS, 0))
        self.config_reloads = Counter({"ok": 0, "failed": 0})  # there from the start, for alerts
        self.certificate_reloads = Counter({"ok": 0, "failed": 0})
        # Histograms.
        self.request_seconds = Histogram()
        self.first_byte_seconds = Histogram()
        # The route store.
        self.store_up = 1
        self.store_change_seconds = Histogram()
        self.store_changes = 0  # routes that others have changed
        self.store_loads = 0
        self.store_waits = 0  # requests that waited for missing changes
        self.store_errors: Counter[str] = Counter()  # by call
