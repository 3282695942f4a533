"""chp/http1/trust.py: whose word counts, and who the client is."""

from __future__ import annotations

import pytest

from chp.http1.trust import TrustedProxies, remove_claims


@pytest.mark.parametrize(
    ("entries", "peer", "trusted"),
    [
        (["10.0.0.0/8"], b"10.255.0.1", True),
        (["10.0.0.0/8"], b"11.0.0.1", False),
        (["10.0.0.7"], b"10.0.0.7", True),
        (["10.0.0.7"], b"10.0.0.8", False),
        (["2001:db8::/32"], b"2001:db8::1", True),
        (["2001:db8::/32"], b"2001:db9::1", False),
        (["0.0.0.0/0"], b"::1", False),
        (["192.0.2.0/24", "10.0.0.0/8"], b"10.0.0.1", True),
        (["10.0.0.0/8"], b"", False),
        (["unix:"], b"", True),
        (["unix:"], b"127.0.0.1", False),
        (["none"], b"127.0.0.1", False),
        (["none"], b"", False),
        (["10.0.0.0/8"], b"no address", False),
    ],
)
def test_peers(entries: list[str], peer: bytes, trusted: bool) -> None:
    assert TrustedProxies(entries).trusts(peer) is trusted


@pytest.mark.parametrize("entry", ["", "host", "10.0.0.0/33", "10.0.0.1/8", "10.0.0", "unix", "unix:/a", "*"])
def test_entries_that_are_none(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        TrustedProxies([entry])


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        (b"", b"10.0.0.1"),
        (b"1.2.3.4", b"1.2.3.4"),
        (b"9.9.9.9, 1.2.3.4", b"1.2.3.4"),
        (b"9.9.9.9,1.2.3.4,10.0.0.2 ,\t10.0.0.3", b"1.2.3.4"),
        (b"10.0.0.3", b"10.0.0.3"),
        (b"1.2.3.4:56", b"1.2.3.4"),
        (b"[2001:db8::1]:56", b"2001:db8::1"),
        (b"[2001:db8::1]", b"2001:db8::1"),
        (b"2001:DB8:0::1", b"2001:db8::1"),
        (b"::ffff:1.2.3.4", b"1.2.3.4"),
        (b"1.2.3.4, ::ffff:10.0.0.9", b"1.2.3.4"),
        (b"1.2.3.4, unknown", b"10.0.0.1"),
        (b"1.2.3.4,", b"10.0.0.1"),
        (b"1.2.3.4, unknown, 10.0.0.9", b"10.0.0.9"),
        (b"1.2.3.4\r\nX: y", b"10.0.0.1"),
        (b"1.2.3.256", b"10.0.0.1"),
        (b"1.2.3.4, 5.6.7.8", b"5.6.7.8"),
        (b"[fe80::1%eth0]:56", b"10.0.0.1"),  # a zone means nothing here, and may be any text
        (b'[fe80::1% - - "GET /forged"]', b"10.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_not_trusted(forwarded_for: bytes, client: bytes) -> None:
    assert TrustedProxies(["10.0.0.0/8"]).client(b"10.0.0.1", forwarded_for) == client


def test_nobody_else_says_who_the_client_is() -> None:
    assert TrustedProxies(["10.0.0.0/8"]).client(b"1.1.1.1", b"2.2.2.2") == b"1.1.1.1"
    assert TrustedProxies(["10.0.0.0/8"]).client(b"", b"2.2.2.2") == b""
    assert TrustedProxies(["unix:"]).client(b"", b"3.3.3.3, 2.2.2.2") == b"2.2.2.2"


def test_claims() -> None:
    block = (
        b"\r\nHost: h\r\nX-Forwarded-Server: a\r\nA:\t1 \r\nforwarded: for=b\r\nX-REAL-ip: c\r\nX-Scheme:\r\n"
        b"X-Forwarded: d\r\nX-Schemes: e\r\nB: Forwarded: f\r\nx-forwarded-prefix:g"
        b"\r\nX_Forwarded_For: h\r\nX-Real_IP: i"
    )
    kept = b"\r\nHost: h\r\nA:\t1 \r\nX-Forwarded: d\r\nX-Schemes: e\r\nB: Forwarded: f"
    assert remove_claims(block) == kept
