"""``/metrics`` in Prometheus' text format 0.0.4.

The counters of CHP keep their names, without the ``_total`` that
prometheus-client appends, so its writer serves for ``process_*`` and
``python_*`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from tornado.web import Application, RequestHandler, stream_request_body

from chp import __version__
from chp.metrics import Histogram, Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, float]  # suffix and labels of the name; value


def make_metrics_application(metrics: Metrics, *, routes: Callable[[], int]) -> Application:
    """Make the application of the metrics server. ``routes`` tells their number."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)

    def page() -> bytes:
        return render(metrics, routes()).encode() + generate_latest(registry)

    return Application(
        [],
        default_handler_class=_MetricsHandler,
        default_handler_args={"page": page},
        log_function=lambda handler: None,  # scrapes are no news
    )


@stream_request_body
class _MetricsHandler(RequestHandler):
    def initialize(self, page: Callable[[], bytes]) -> None:
        self.page = page

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.clear_header("Content-Type")

    def compute_etag(self) -> None:
        return None

    def data_received(self, chunk: bytes) -> None:
        pass  # a body that nobody asked for

    def answer(self) -> None:
        if self.request.path == "/metrics" and self.request.method in ("GET", "HEAD"):
            self.set_header("Content-Type", CONTENT_TYPE)
            self.finish(self.page())
        else:
            self.send_error(404)

    get = head = post = delete = patch = put = options = answer

    def write_error(self, status_code: int, **kwargs: object) -> None:
        if status_code == 405:  # a method that Tornado does not know
            self.set_status(404)
        self.write(self._reason)
        self.clear_header("Content-Type")
        self.finish()


def render(metrics: Metrics, routes: int) -> str:
    """Write all of the proxy's own metrics."""
    return "".join(
        f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
        + "".join(f"{name}{suffix} {value}\n" for suffix, value in samples)
        for kind, name, text, samples in _families(metrics, routes)
    )


def _families(m: Metrics, routes: int) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    # CHP's own: these names are a contract.
    yield "counter", "api_route_get", "Count of API route get requests", _value(m.api_route_get)
    yield "counter", "api_route_add", "Count of API route add requests", _value(m.api_route_add)
    yield "counter", "api_route_delete", "Count of API route delete requests", _value(m.api_route_delete)
    yield (
        "summary",
        "find_target_for_req",
        "Summary of find target requests",
        _summary(m.find_target_seconds, m.find_target_count),
    )
    yield (
        "summary",
        "last_activity_updating",
        "Summary of last activity updating requests (the sum is the time that the route store took)",
        _summary(m.last_activity_seconds, m.last_activity_count),
    )
    yield "counter", "requests_ws", "Count of websocket requests", _value(m.requests_ws)
    yield "counter", "requests_web", "Count of web requests", _value(m.requests_web)
    yield "counter", "requests_proxy", "Count of proxy requests", _labelled("status", m.requests_proxy)
    yield "counter", "requests_api", "Count of API requests", _labelled("status", m.requests_api)

    yield "gauge", "chp_build_info", "The running version", [(f'{{version="{__version__}"}}', 1)]
    yield "gauge", "chp_routes", "Routes in the table", _value(routes)
    yield "gauge", "chp_client_connections", "Open connections of clients", _value(m.client_connections)
    yield "gauge", "chp_tunnels", "Open tunnels (WebSockets and other upgrades)", _value(m.tunnels)
    idle = m.upstream_connections_idle
    yield (
        "gauge",
        "chp_upstream_connections",
        "Open connections to upstreams",
        _labelled("state", {"active": m.upstream_connections - idle, "idle": idle}),
    )
    yield (
        "counter",
        "chp_client_bytes_total",
        "Bytes from and to clients",
        _labelled("direction", {"received": m.client_bytes_received, "sent": m.client_bytes_sent}),
    )
    yield (
        "counter",
        "chp_upstream_bytes_total",
        "Bytes from and to upstreams",
        _labelled("direction", {"received": m.upstream_bytes_received, "sent": m.upstream_bytes_sent}),
    )
    yield (
        "counter",
        "chp_client_connections_closed_total",
        "Closed connections of clients by reason",
        _labelled("reason", m.client_connections_closed),
    )
    yield (
        "counter",
        "chp_upstream_errors_total",
        "Failed exchanges with upstreams by reason",
        _labelled("reason", m.upstream_errors),
    )
    yield (
        "counter",
        "chp_upstream_retries_total",
        "Requests sent again because a pooled connection had ended",
        _value(m.upstream_retries),
    )
    yield "gauge", "chp_store_up", "Whether the route store answers", _value(m.store_up)
    yield (
        "counter",
        "chp_store_changes_total",
        "Routes that other proxies have added, replaced or removed",
        _value(m.store_changes),
    )
    yield (
        "counter",
        "chp_store_loads_total",
        "How often all routes were read from the route store",
        _value(m.store_loads),
    )
    yield (
        "counter",
        "chp_store_waits_total",
        "Requests that waited for changes which were known to be missing",
        _value(m.store_waits),
    )
    yield (
        "counter",
        "chp_store_errors_total",
        "Failed calls of the route store",
        _labelled("call", m.store_errors),
    )
    yield (
        "counter",
        "chp_accept_pauses_total",
        "Pauses of a server's accepting because file descriptors or memory were used up",
        _value(m.accept_pauses),
    )
    yield (
        "counter",
        "chp_limit_reached_total",
        "How often a limit refused or closed something, by the option that sets it",
        _labelled("limit", m.limits_reached),
    )
    yield (
        "counter",
        "chp_config_reloads_total",
        "Reloads of the configuration by result: ok, or failed, and then all is as it was",
        _labelled("result", m.config_reloads),
    )
    yield (
        "counter",
        "chp_tls_certificate_reloads_total",
        "Certificates whose files changed by result: ok, or failed, and then the old one stays",
        _labelled("result", m.certificate_reloads),
    )
    yield (
        "gauge",
        "chp_tls_certificate_expiry_timestamp_seconds",
        "When the certificate of a server ends, in seconds since 1970",
        _labelled("server", m.certificate_expiry),
    )
    yield (
        "histogram",
        "chp_request_seconds",
        "Seconds from a request's head to the end of its response",
        _histogram(m.request_seconds),
    )
    yield (
        "histogram",
        "chp_first_byte_seconds",
        "Seconds from a request's head to the first byte of its response",
        _histogram(m.first_byte_seconds),
    )
    yield (
        "histogram",
        "chp_store_change_seconds",
        "Seconds that the route store took for changes of this proxy",
        _histogram(m.store_change_seconds),
    )


def _value(value: float) -> list[Sample]:
    return [("", value)]


def _summary(total: float, count: int) -> list[Sample]:
    return [("_sum", total), ("_count", count)]


def _labelled(label: str, values: Mapping[int, int] | Mapping[str, int]) -> list[Sample]:
    """Give each value its label: statuses and fixed words, which need no escapes."""
    return [(f'{{{label}="{key}"}}', value) for key, value in values.items()]


def _histogram(histogram: Histogram) -> Iterator[Sample]:
    count = 0
    for bound, observed in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        count += observed
        yield f'_bucket{{le="{bound}"}}', count
    yield "_sum", histogram.sum
    yield "_count", count
