"""For tests on the wire: both event loops, and nothing may be left when a test is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from support.wire import backend_defaults, proxy_defaults
from tornado.ioloop import IOLoop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def open_descriptors() -> set[str]:
    """What this process has open, by name: ``17 -> socket:[4711]``."""
    descriptors = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
            descriptors.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
    return descriptors


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    left = {descriptor for descriptor in open_descriptors() - before if "socket:" in descriptor}
    assert not left


# The event loop, and what carries requests to targets: over TLS in the last.
COMBINATIONS = (("asyncio", "direct"), ("uvloop", "direct"), ("uvloop", "curl"), ("asyncio", "curl-tls"))
# By module, where it is not direct and curl: some never get as far as a target, or go there
# directly, and for others TLS can make a difference.
ALL = frozenset({"direct", "curl", "curl-tls"})
KINDS = {
    "test_accepting": {"direct"},
    "test_malformed": {"direct"},
    "test_tls_records": {"direct"},
    "test_tunnel": {"direct"},
    "test_curl": {"curl"},
    "test_curl_pool": {"curl"},
    "test_curl_responses": {"curl"},
    "test_curl_reentrancy": {"curl", "curl-tls"},
    "test_curl_tls": {"curl"},
    "test_aborts": ALL,
    "test_backpressure": ALL,
    "test_early_responses": ALL,
    "test_fields": ALL,
    "test_keepalive": ALL,
    "test_pool": ALL,
    "test_streaming": ALL,
    "test_timeouts": ALL,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test over both upstreams, but for what docs/upstreams.md says is different."""
    module = metafunc.module.__name__.rpartition(".")[2]
    kinds = KINDS.get(module, {"direct", "curl"})
    kinds = kinds - {kind for marker in metafunc.definition.iter_markers("not_over") for kind in marker.args}
    combinations = [pair for pair in COMBINATIONS if pair[1] in kinds]
    metafunc.parametrize(
        ("io_loop", "upstream_kind"),
        combinations,
        ids=["-".join(pair) for pair in combinations],
        indirect=True,
    )


@pytest.fixture(autouse=True)
def upstream_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, pki: Any) -> str:
    """What carries the requests of every proxy in this test."""
    kind: str = request.param
    monkeypatch.setitem(proxy_defaults, "upstream", kind.removesuffix("-tls"))
    if kind == "curl-tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.cert, pki.key)
        monkeypatch.setitem(backend_defaults, "tls", context)
        monkeypatch.setitem(proxy_defaults, "client_ssl_ca", pki.ca)
    return kind


@pytest.fixture(autouse=True)
def io_loop(request: pytest.FixtureRequest, no_descriptor_left: None) -> Iterator[IOLoop]:
    """Every test runs on asyncio's own loop and on uvloop."""
    loop = LOOPS[request.param]()
    io_loop = IOLoop(make_current=False, asyncio_loop=loop)
    yield io_loop
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    io_loop.close()
    assert not left, "tasks were left"
