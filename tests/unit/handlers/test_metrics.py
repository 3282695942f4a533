from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chp import __version__
from chp.handlers.metrics import make_metrics_application, render
from chp.metrics import LIMITS, Metrics


def moved() -> Metrics:
    """Metrics, each of them with a value of its own."""
    metrics = Metrics()
    metrics.api_route_get = 1
    metrics.api_route_add = 2
    metrics.api_route_delete = 3
    metrics.requests_ws = 4
    metrics.requests_web = 5
    metrics.requests_proxy.update({200: 6, 503: 7})
    metrics.requests_api.update({201: 8})
    metrics.find_target_count, metrics.find_target_seconds = 9, 0.5
    metrics.last_activity_count, metrics.last_activity_seconds = 10, 0.25
    metrics.client_connections = 11
    metrics.tunnels = 12
    metrics.upstream_connections, metrics.upstream_connections_idle = 20, 7
    metrics.client_bytes_received, metrics.client_bytes_sent = 21, 22
    metrics.upstream_bytes_received, metrics.upstream_bytes_sent = 23, 24
    metrics.client_connections_closed["idle"] = 25
    metrics.upstream_errors["refused"] = 26
    metrics.upstream_retries = 27
    metrics.config_reloads["ok"] = 29
    metrics.certificate_reloads["failed"] = 30
    metrics.certificate_expiry["proxy"] = 1_800_000_000
    metrics.accept_pauses = 28
    metrics.limits_reached["max_head_size"] = 31
    metrics.store_up = 0
    metrics.store_changes = 28
    metrics.store_loads = 29
    metrics.store_waits = 30
    metrics.store_errors["change"] = 31
    return metrics


def lines(metrics: Metrics, routes: int = 0) -> list[str]:
    return [line for line in render(metrics, routes).splitlines() if not line.startswith("# HELP")]


def test_names_of_chp() -> None:
    assert lines(moved())[:21] == [
        "# TYPE api_route_get counter",
        "api_route_get 1",
        "# TYPE api_route_add counter",
        "api_route_add 2",
        "# TYPE api_route_delete counter",
        "api_route_delete 3",
        "# TYPE find_target_for_req summary",
        "find_target_for_req_sum 0.5",
        "find_target_for_req_count 9",
        "# TYPE last_activity_updating summary",
        "last_activity_updating_sum 0.25",
        "last_activity_updating_count 10",
        "# TYPE requests_ws counter",
        "requests_ws 4",
        "# TYPE requests_web counter",
        "requests_web 5",
        "# TYPE requests_proxy counter",
        'requests_proxy{status="200"} 6',
        'requests_proxy{status="503"} 7',
        "# TYPE requests_api counter",
        'requests_api{status="201"} 8',
    ]


def test_our_own() -> None:
    assert lines(moved(), routes=10)[21:-57] == [
        "# TYPE chp_build_info gauge",
        f'chp_build_info{{version="{__version__}"}} 1',
        "# TYPE chp_routes gauge",
        "chp_routes 10",
        "# TYPE chp_client_connections gauge",
        "chp_client_connections 11",
        "# TYPE chp_tunnels gauge",
        "chp_tunnels 12",
        "# TYPE chp_upstream_connections gauge",
        'chp_upstream_connections{state="active"} 13',
        'chp_upstream_connections{state="idle"} 7',
        "# TYPE chp_client_bytes_total counter",
        'chp_client_bytes_total{direction="received"} 21',
        'chp_client_bytes_total{direction="sent"} 22',
        "# TYPE chp_upstream_bytes_total counter",
        'chp_upstream_bytes_total{direction="received"} 23',
        'chp_upstream_bytes_total{direction="sent"} 24',
        "# TYPE chp_client_connections_closed_total counter",
        'chp_client_connections_closed_total{reason="idle"} 25',
        "# TYPE chp_upstream_errors_total counter",
        'chp_upstream_errors_total{reason="refused"} 26',
        "# TYPE chp_upstream_retries_total counter",
        "chp_upstream_retries_total 27",
        "# TYPE chp_store_up gauge",
        "chp_store_up 0",
        "# TYPE chp_store_changes_total counter",
        "chp_store_changes_total 28",
        "# TYPE chp_store_loads_total counter",
        "chp_store_loads_total 29",
        "# TYPE chp_store_waits_total counter",
        "chp_store_waits_total 30",
        "# TYPE chp_store_errors_total counter",
        'chp_store_errors_total{call="change"} 31',
        "# TYPE chp_accept_pauses_total counter",
        "chp_accept_pauses_total 28",
        "# TYPE chp_limit_reached_total counter",
        *(
            f'chp_limit_reached_total{{limit="{name}"}} {31 if name == "max_head_size" else 0}'
            for name in LIMITS
        ),
        "# TYPE chp_config_reloads_total counter",
        'chp_config_reloads_total{result="ok"} 29',
        'chp_config_reloads_total{result="failed"} 0',
        "# TYPE chp_tls_certificate_reloads_total counter",
        'chp_tls_certificate_reloads_total{result="ok"} 0',
        'chp_tls_certificate_reloads_total{result="failed"} 30',
        "# TYPE chp_tls_certificate_expiry_timestamp_seconds gauge",
        'chp_tls_certificate_expiry_timestamp_seconds{server="proxy"} 1800000000',
    ]


@pytest.mark.parametrize("name", ["request_seconds", "first_byte_seconds", "store_change_seconds"])
def test_histograms_are_cumulative(name: str) -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.002, 0.002, 7, 100):
        getattr(metrics, name).observe(seconds)
    page = lines(metrics)
    start = page.index(f"# TYPE chp_{name} histogram") + 1
    assert page[start : start + 18] == [
        *(f'chp_{name}_bucket{{le="{bound}"}} {count}' for bound, count in [(0.001, 1), (0.0025, 3)]),
        *(f'chp_{name}_bucket{{le="{bound}"}} 3' for bound in (0.005, 0.01, 0.025, 0.05, 0.1)),
        *(f'chp_{name}_bucket{{le="{bound}"}} 3' for bound in (0.25, 0.5, 1.0, 2.5, 5.0)),
        *(f'chp_{name}_bucket{{le="{bound}"}} 4' for bound in (10.0, 30.0, 60.0)),
        f'chp_{name}_bucket{{le="+Inf"}} 5',
        f"chp_{name}_sum 107.005",
        f"chp_{name}_count 5",
    ]


@pytest.mark.parametrize("target", ["/metrics", "/metrics?x=1"])
async def test_page(serve: Any, target: str) -> None:
    async with serve(make_metrics_application(moved(), routes=lambda: 3)) as client:
        answer = await client("GET", target)
        assert answer.status == 200
        assert set(answer.fields) == {"date", "content-length", "content-type"}
        assert answer.fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        assert families["chp_routes"].samples[0].value == 3
        assert {"python_info", "process_cpu_seconds", "process_resident_memory_bytes"} <= set(families)
        head = await client("HEAD", target)
        assert (head.status, head.body) == (200, b"")


async def test_values_are_read_when_asked_for(serve: Any) -> None:
    metrics = Metrics()
    routes: list[int] = []
    async with serve(make_metrics_application(metrics, routes=lambda: len(routes))) as client:
        assert b"\nrequests_web 0\n" in (await client("GET", "/metrics")).body
        metrics.requests_web = 5
        routes.append(1)
        body = (await client("GET", "/metrics")).body
        assert b"\nrequests_web 5\n" in body
        assert b"\nchp_routes 1\n" in body


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/metrics/"),
        ("GET", "/metricsx"),
        ("POST", "/metrics"),
        ("FOO", "/metrics"),
        ("FOO", "/"),
    ],
)
async def test_all_else_is_not_found(serve: Any, method: str, target: str) -> None:
    async with serve(make_metrics_application(Metrics(), routes=lambda: 0)) as client:
        answer = await client(method, target, b"x" * 1000 if method == "POST" else None)
        assert (answer.status_line, answer.body) == ("HTTP/1.1 404 Not Found", b"Not Found")
        assert set(answer.fields) - {"connection"} == {"date", "content-length"}


async def test_twice_in_one_process(serve: Any) -> None:
    one, two = Metrics(), Metrics()
    one.tunnels, two.tunnels = 1, 2
    async with (
        serve(make_metrics_application(one, routes=lambda: 0)) as first,
        serve(make_metrics_application(two, routes=lambda: 0)) as second,
    ):
        assert b"\nchp_tunnels 1\n" in (await first("GET", "/metrics")).body
        assert b"\nchp_tunnels 2\n" in (await second("GET", "/metrics")).body
