"""Options: where the servers listen."""

from __future__ import annotations

from traitlets import Bool, HasTraits, Integer, Unicode, default

from chp.config.listen import MAX_PORT


class AddressOptions(HasTraits):
    """Addresses"""

    ip = Unicode(
        "",
        help="""
        Public-facing IP address or host name of the proxy; empty: all interfaces.

        All interfaces include IPv6. ``::`` means the same, and ``*``, which is accepted with a warning.
        """,
    ).tag(config=True, metavar="IP")

    port = Integer(
        8000,
        min=0,
        max=MAX_PORT,
        help="""
        Public-facing port of the proxy; 0: any free port.

        With 0, the port that was found is in the log.
        """,
    ).tag(config=True)

    socket = Unicode(
        "",
        help="""
        Path of a unix domain socket for the proxy to listen on, instead of an IP address and port.

        The file gets the modes that the umask gives. A file that an earlier process left is
        replaced if nobody listens on it. It is removed at exit.
        """,
    ).tag(config=True, metavar="PATH")

    proxy_protocol = Bool(
        False,
        help="""
        Expect the PROXY protocol (version 1 or 2) of a load balancer on the proxy's port or socket.

        Each connection then has to begin with such a header, before TLS; others are closed. The
        client's address is what the header says, unless ``--trusted-proxies`` are set and the peer
        is none of them. Without that list, whoever reaches the port can claim any address. The API,
        the metrics and ``--redirect-port`` go without.
        """,
    ).tag(config=True)

    api_ip = Unicode(
        "localhost",
        help="""
        IP address or host name for REST API requests; empty: all interfaces.

        Who reaches the API and has the token decides where every user's requests go: keep
        it on an address that only the Hub can reach.
        """,
    ).tag(config=True, metavar="IP")

    api_port = Integer(
        min=0,
        max=MAX_PORT,
        help="""
        Port for REST API requests; by default the proxy's port plus one.

        Where the proxy's port is 0, it is any free port too.
        """,
    ).tag(config=True)

    @default("api_port")
    def _default_api_port(self) -> int:
        return self.port + 1 if self.port else 0

    api_socket = Unicode(
        "",
        help="Path of a unix domain socket for the REST API, instead of an IP address and port.",
    ).tag(config=True, metavar="PATH")

    reuse_port = Bool(
        False,
        help="""
        Let other processes listen on the same ports; the kernel shares out the connections.

        For several proxies on one machine, with a store that they share (``--storage-url``).
        It is about the ports of the proxy, the REST API and the redirects, and every process
        has to ask for it. The metrics are those of one process, and need a port for each.
        """,
    ).tag(config=True)

    metrics_ip = Unicode(
        "",
        help="IP address or host name of the metrics server; empty: all interfaces.",
    ).tag(config=True, metavar="IP")

    metrics_port = Integer(
        None,
        allow_none=True,
        min=0,
        max=MAX_PORT,
        help="""
        Port of the metrics server; without it (and without a socket) there is none.

        Prometheus finds the metrics at ``/metrics`` there. 0 is any free port.
        """,
    ).tag(config=True)

    metrics_socket = Unicode(
        "",
        help="Path of a unix domain socket for the metrics server, instead of an IP address and port.",
    ).tag(config=True, metavar="PATH")

    redirect_port = Integer(
        None,
        allow_none=True,
        min=0,
        max=MAX_PORT,
        help="""
        Redirect HTTP requests on this port to the proxy's port with HTTPS.

        It listens on the same IP address as the proxy, and needs a certificate
        (``--ssl-cert``).
        """,
    ).tag(config=True)

    redirect_to = Integer(
        None,
        allow_none=True,
        min=1,
        max=MAX_PORT,
        help="""
        The port to which requests on the redirect port are sent; by default the proxy's own.

        For a proxy that clients reach by another port than the one that it listens on: in
        a container with ``--port 8443 --redirect-port 8000``, say ``--redirect-to 443``.
        """,
    ).tag(config=True)
