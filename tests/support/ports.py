"""Ports for programs that have to be told one, and for servers that come back on the one they had.

A port that the system has chosen and that was let go again may be anybody's before it is used: a second
process of tests, which listens on port 0 all the time, gets it now and then. So these are not of the range
from which the system chooses (``net.ipv4.ip_local_port_range``, by default 32768 to 60999), and every process
hands out those of a block of its own. Whose block it is says its first port: the owner keeps it bound, and
the system lets go of it when the owner ends, however that is.
"""

from __future__ import annotations

import itertools
import socket
from contextlib import suppress

_BLOCK = 200  # ports, of which the longest test needs a dozen at a time
_BLOCKS = range(20_000, 32_000, _BLOCK)


def _own_block() -> int:
    for first in _BLOCKS:
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", first))
        except OSError:
            sock.close()
        else:
            sock.detach()  # nobody closes it
            return first
    raise OSError("every block of ports has an owner")


_first = _own_block()
_ports = itertools.cycle(range(_first + 1, _first + _BLOCK))


def free_port() -> int:
    """Return a port on which nobody listens, and which is not given away again before all others were.

    Raises :class:`OSError` when there is none.
    """
    for port in itertools.islice(_ports, _BLOCK):
        with socket.socket() as sock, suppress(OSError):
            # As servers do: connections that have ended are in nobody's way.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
            return port
    raise OSError("somebody listens on every port of this process")
