"""chp/descriptors.py: how many connections the limit of open files allows."""

import resource

import pytest

from chp import descriptors
from chp.config import build
from chp.config.options import Options


@pytest.mark.parametrize(
    ("soft", "connections"), [(1024, 480), (65536, 32736), (10, 1), (resource.RLIM_INFINITY, 0)]
)
def test_each_connection_has_two_of_them(monkeypatch, soft, connections):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, soft))
    assert descriptors.connections() == connections
    assert build.proxy_settings(Options()).max_connections == connections
    assert build.proxy_settings(Options(max_connections=7)).max_connections == 7
