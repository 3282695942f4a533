"""The form of host names that host routing compares."""

from __future__ import annotations


def normal_host(authority: str) -> str:
    """Return the host of ``host[:port]`` as routes are matched with it.

    Lower case, without the port, the brackets of an IPv6 address and the dot
    of a fully qualified name. An IPv6 address without brackets has no port.
    """
    if authority.startswith("["):
        host = authority[1:].partition("]")[0]
    elif authority.count(":") > 1:
        host = authority
    else:
        host = authority.partition(":")[0]
    return host.removesuffix(".").lower()
