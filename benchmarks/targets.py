"""What chp aims at: shares of what others need, and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Report


@dataclass(frozen=True)
class Target:
    """At most ``limit`` of a figure, or of the share that ``compared`` makes of it."""

    text: str
    limit: float
    figure: str
    workload: str
    peer: str = "chp"
    compared: str = ""

    def measured(self, report: Report, *, compiled: bool = False) -> float | None:
        """Return the figure; None: not measured. ``compiled``: of the compiled build."""
        peer = f"{self.peer}-compiled" if compiled else self.peer
        if self.compared:
            return report.ratio(self.figure, self.workload, peer, self.compared)
        return report.value(self.figure, self.workload, peer)


_NAMES = {"node": "configurable-http-proxy (Node)", "traefik": "Traefik", "haproxy": "HAProxy"}
_SHARES = (
    # workload, title, figure, against Node, Traefik, HAProxy
    ("small", "small GET", "cpu_us", 0.18, 0.5, 2.2),
    ("1m", "1 MiB GET", "cpu_us", 0.18, 1.0, 1.0),
    ("upload", "1 MiB upload", "cpu_us", 0.25, 1.0, 1.0),
    ("tls-small", "TLS, small GET", "cpu_us", 0.15, 0.5, 2.5),
    ("ws-100", "WebSocket echo, 100 B", "cpu_us", 0.75, 1.1, 1.4),
    ("ws-64k", "WebSocket echo, 64 KiB", "cpu_us", 0.4, 0.7, 0.8),
    ("idle", "idle WebSocket, memory", "idle_kb", 0.2, 0.05, 1.0),
)

TARGETS = (
    *(
        Target(f"{title}: share of {_NAMES[peer]}", limit, figure, workload, compared=peer)
        for workload, title, figure, *limits in _SHARES
        for peer, limit in zip(_NAMES, limits, strict=True)
    ),
    Target(
        "small GET, curl: share of configurable-http-proxy (Node)",
        0.55,
        "cpu_us",
        "small",
        "chp-curl",
        "node",
    ),
    Target(
        "small GET, asyncio: share of configurable-http-proxy (Node)",
        0.2,
        "cpu_us",
        "small",
        "chp-asyncio",
        "node",
    ),
    Target("lookup among 100,000 routes, share of one route", 1.05, "many_share", "routes"),
    Target("adding a route to 100,000, p99, ms", 2.0, "add_p99_ms", "routes"),
    Target("slowest request while 10,000 routes are read, ms", 20.0, "stall_few_ms", "routes"),
    Target("ready after the command, ms", 500.0, "ready_ms", "start"),
    Target("memory at rest, MB", 45.0, "rest_mb", "start"),
)
