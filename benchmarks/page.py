"""Writes docs/performance.md, with its plot and the figures as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import plot
from benchmarks.peers import PEERS
from benchmarks.report import Report, Result
from benchmarks.targets import TARGETS
from benchmarks.workloads import WORKLOADS

_TITLES = {workload.name: workload.title for workload in WORKLOADS}
_PEERS = {peer.name: peer.title for peer in PEERS}
_SPECIAL = ("idle", "routes")  # have tables of their own
_CPU = [name for name in _TITLES if name not in _SPECIAL]
_OTHERS = ("node", "corridor", "traefik", "haproxy", "nginx")

# What only some figures are called; the others are CPU time, and called as their workload.
_FIGURES = {"rest_mb": "memory at rest", "ready_ms": "time to be ready", "idle_kb": "idle WebSocket, memory"}


def _cpu(*names: str) -> list[tuple[str, str]]:
    return [("cpu_us", name) for name in names]


# Why another one may be ahead: figures with their workloads. Said only where it is so.
_REASONS = (
    (
        _cpu("small", "10k", "https-small", "tls-small"),
        (
            "Parsing heads, choosing a route and framing are done in Python here: about half of a small"
            " request. The rest is mostly the kernel's work, which is the same for all."
        ),
    ),
    (
        _cpu("connect", "tls-connect"),
        (
            "A connection is more work than a request: socket, transport, protocol and task are objects of"
            " Python and of the event loop. TLS runs on OpenSSL, but through Python's `ssl`. Browsers and the"
            " Hub keep their connections."
        ),
    ),
    (
        _cpu("ws-100", "ws-64k", "events"),
        "A message crosses the event loop and a few calls of Python in each direction, and is copied once.",
    ),
    (
        _cpu("1m", "upload", "tls-1m", "https-1m"),
        "Over TLS, long contents are copied once more, on their way through Python's `ssl` or libcurl.",
    ),
    (
        [("rest_mb", "start"), ("ready_ms", "start")],
        "Python loads an interpreter and its libraries before it serves the first request.",
    ),
    ([("idle_kb", "idle")], "An idle WebSocket is two sockets with a transport and a protocol each."),
)

_START = """\
# Performance

<!-- Written by `make benchmark`. Do not edit. -->

What a proxy costs is the CPU time that it takes from the programs behind it. Here is what `chp` and others
took for the same work, in front of the same backend, in one run on {date}. Load generator, backend and proxy
share the machine's cores, so rates and latencies are those of all three; CPU time is the figure to trust, and
ratios more than microseconds.

![CPU time for each operation, configurable-http-proxy on Node being 100 %](performance.svg)

- Machine: {cores} cores, {processor}, {system}.
- {versions}.
- `chp` runs on Python {python}. It is measured on uvloop with the direct upstream, on asyncio, both
  as plain Python and compiled (`CHP_COMPILE=1`), and with the curl upstream.
- Each proxy has one core's worth of threads (Traefik `GOMAXPROCS=1`, HAProxy `nbthread 1`, nginx one
  process), keeps connections to the backend, adds the X-Forwarded fields and writes no access log.
  Certificates have P-256 keys.
- CPU time is that of the proxy's processes, user and system. The proxies take turns in {rounds} rounds of
  {seconds:g} s. The least CPU time of these counts, because a disturbance only adds to it, and
  the middle of everything else.
- wrk makes the load for HTTP, clients on uvloop the rest, over 32 connections (event streams: 20, with an
  event every 5 ms). An answer that is wrong ends the benchmark.

`make benchmark` measures again and writes this page. The code is in `benchmarks/`.
"""


def write(report: Report, folder: Path) -> None:
    """Write the page, the plot and the figures into a folder."""
    (folder / "performance.json").write_text(report.as_json(), encoding="utf-8")
    plotted = {name: _TITLES[name] for name in _CPU}
    (folder / "performance.svg").write_text(plot.draw(report, plotted, _PEERS), encoding="utf-8")
    (folder / "performance.md").write_text(text(report), encoding="utf-8")


def text(report: Report) -> str:
    peers = [name for name in _PEERS if name in report.versions]
    versions = ", ".join(f"{_PEERS[name]} {report.versions[name]}" for name in peers if "-" not in name)
    parts = [
        _START.format(
            date=report.date,
            versions=versions,
            rounds=report.rounds,
            seconds=report.seconds,
            **report.machine,
        ),
        "## CPU time for each operation, in microseconds\n",
        _table(report, peers, _CPU, lambda result: _number(result.cpu_us)),
        "## Where others are ahead\n",
        _ahead(report),
        "## Operations per second\n",
        _table(report, peers, _CPU, lambda result: f"{result.rate:,.0f}" if result.rate else ""),
        "## Latency in milliseconds, median and 99th percentile\n",
        (
            "Under full load, so most of it is waiting for a turn. For event streams it is the age of an"
            " event when the client reads it.\n"
        ),
        _table(report, peers, _CPU, _latency),
        "## Memory, start and idle connections\n",
        _at_rest(report, peers),
        "## Many routes\n",
        _routes(report, peers),
        "## What chp aims at\n",
        _targets(report),
    ]
    return "\n".join(parts)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _table(report: Report, peers: Sequence[str], names: Sequence[str], cell: Callable[[Result], str]) -> str:
    rows = []
    for name in names:
        found = [report.find(name, peer) for peer in peers]
        if any(found):
            rows.append([_TITLES[name], *(cell(result) if result else "" for result in found)])
    return _rows(["", *(_PEERS[peer] for peer in peers)], rows)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _latency(result: Result) -> str:
    return f"{_number(result.p50_ms)} / {_number(result.p99_ms)}"


def _at_rest(report: Report, peers: Sequence[str]) -> str:
    rows = [
        ["ready after the command, ms", "ready_ms", "start"],
        ["memory at rest, MB", "rest_mb", "start"],
        ["memory after small GETs, MB", "rss_mb", "small"],
        ["memory after 1 MiB GETs, MB", "rss_mb", "1m"],
        ["an idle WebSocket, KB", "idle_kb", "idle"],
    ]
    return _rows(
        ["", *(_PEERS[peer] for peer in peers)],
        [
            [title, *(_number(report.value(figure, workload, peer)) for peer in peers)]
            for title, figure, workload in rows
        ],
    )


def _routes(report: Report, peers: Sequence[str]) -> str:
    rows = {
        "one_us": "small GET, one route: CPU µs",
        "many_us": "small GET, 100,000 routes: CPU µs",
        "add_p50_ms": "adding a route to 100,000: median, ms",
        "add_p99_ms": "adding a route to 100,000: 99th percentile, ms",
        "get_few_ms": "reading 10,000 routes: ms",
        "stall_few_ms": "slowest request meanwhile: ms",
        "get_many_ms": "reading 100,000 routes: ms",
        "stall_many_ms": "slowest request meanwhile: ms",
    }
    having = [peer for peer in peers if report.find("routes", peer)]
    return "With 2,000 different paths; routes are added over the REST API.\n\n" + _rows(
        ["", *(_PEERS[peer] for peer in having)],
        [
            [title, *(_number(report.value(figure, "routes", peer)) for peer in having)]
            for figure, title in rows.items()
        ],
    )


def _ahead(report: Report) -> str:
    """Name each figure in which another one needs less, and why that is so."""
    lines: list[str] = []
    for figures, reason in _REASONS:
        ahead = []
        for figure, name in figures:
            shares = {peer: report.ratio(figure, name, peer, "chp") for peer in _OTHERS}
            better = {peer: share for peer, share in shares.items() if share is not None and share < 1}
            if better:
                needs = ", ".join(
                    f"{_PEERS[peer]} {share:.2f}{_of_compiled(report, figure, name, peer)}"
                    for peer, share in better.items()
                )
                ahead.append(f"  - {_FIGURES.get(figure, _TITLES.get(name))}: {needs}")
        if ahead:
            lines += [f"- {reason}", *ahead]
    start = (
        "What they need, `chp` being 1; in brackets, the compiled build being 1. Where a proxy is not named,"
        " `chp` needs less.\n\n"
    )
    return start + "\n".join(lines) + "\n"


def _of_compiled(report: Report, figure: str, name: str, peer: str) -> str:
    share = report.ratio(figure, name, peer, "chp-compiled")
    return "" if share is None else f" ({share:.2f})"


def _targets(report: Report) -> str:
    rows = []
    for target in TARGETS:
        measured, compiled = target.measured(report), target.measured(report, compiled=True)
        if measured is not None:
            best = measured if compiled is None else min(measured, compiled)
            kept = "yes" if measured <= target.limit else "compiled" if best <= target.limit else "**no**"
            shown = "" if compiled is None else f"{compiled:.2f}"
            rows.append([target.text, f"{target.limit:g}", f"{measured:.2f}", shown, kept])
    return "Shares are of CPU time for each operation, unless they are of memory.\n\n" + _rows(
        ["", "at most", "measured", "compiled", "kept"], rows
    )
