"""Whose word counts: the proxies in front of this one, which say who the client is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# Entries beside networks: peers on a unix socket, which have no address, and nobody at all.
_UNIX, _NOBODY = "unix:", "none"
# What a proxy in front says of the client. The last two are what Tornado believes beside X-Forwarded-*,
# and so JupyterHub and Jupyter servers do; CGI, and so WSGI, can't tell underscores from hyphens.
_CLAIMS = re.compile(
    rb"\r\n(?:x[-_]forwarded[-_][^:\r]*|forwarded|x[-_]real[-_]ip|x[-_]scheme):[^\r]*", re.IGNORECASE
)
# As proxies write addresses into X-Forwarded-For: some with a port, IPv6 then in brackets.
_ADDRESS = re.compile(rb"\[([0-9A-Fa-f:.]*)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?|([0-9A-Fa-f:.]+)")
_KNOWN_PEERS = 4096  # addresses that are not looked up again


def remove_claims(block: bytes) -> bytes:
    """Return a block of fields without those that say who the client is."""
    return _CLAIMS.sub(b"", block)


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return what an IPv4 address in IPv6 form (RFC 4291, section 2.5.5.2) stands for; any other as it is."""
    return getattr(address, "ipv4_mapped", None) or address


class TrustedProxies:
    """Networks, and perhaps unix sockets, whose requests say the truth about their client."""

    def __init__(self, entries: Iterable[str]) -> None:
        """``entries`` are IP addresses, networks such as ``10.0.0.0/8``, ``unix:``, or ``none``.

        Raises ValueError for anything else, also for a network with bits behind its prefix.
        """
        self._unix_sockets = False
        networks = []
        for entry in entries:
            if entry == _UNIX:
                self._unix_sockets = True
            elif entry != _NOBODY:
                networks.append(ip_network(entry))
        self._networks = tuple(networks)
        self._is_known = lru_cache(maxsize=_KNOWN_PEERS)(self._is_inside)

    def trusts(self, peer: bytes) -> bool:
        """Tell whether a peer's word counts; ``peer`` is its IP address, empty for a unix socket."""
        return self._is_known(peer) if peer else self._unix_sockets

    def client(self, peer: bytes, forwarded_for: bytes) -> bytes:
        """Return the client's address: the last one of X-Forwarded-For that is not a trusted proxy's own.

        What stands before that, anybody may have written. The same goes for what is no address: then it
        is the proxy that has passed it on.
        """
        client = peer
        for entry in reversed(forwarded_for.split(b",")):
            if not self.trusts(client):
                break
            address = _parse(entry.strip(b" \t"))
            if address is None:
                break
            client = str(address).encode()
        return client

    def _is_inside(self, peer: bytes) -> bool:
        address = _parse(peer)
        return address is not None and any(address in network for network in self._networks)


def _parse(entry: bytes) -> IPv4Address | IPv6Address | None:
    match = _ADDRESS.fullmatch(entry)
    if match is None:
        return None
    try:
        address = ip_address((match[1] or match[2] or match[3] or b"").decode())
    except ValueError:
        return None
    return unmapped(address)
