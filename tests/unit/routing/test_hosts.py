from __future__ import annotations

import pytest

from chp.routing.hosts import normal_host


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("example.com", "example.com"),
        ("Example.COM:8000", "example.com"),
        ("example.com.", "example.com"),
        ("example.com.:443", "example.com"),
        ("[::1]", "::1"),
        ("[2001:DB8::1]:8443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("10.0.0.1:", "10.0.0.1"),
        ("", ""),
    ],
)
def test_normal_host(authority: str, host: str) -> None:
    assert normal_host(authority) == host
