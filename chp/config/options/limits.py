"""Options: timeouts and limits. All times are in milliseconds."""

from __future__ import annotations

from functools import partial

from traitlets import HasTraits, Integer

# No limit for anybody, but one that event loops, C libraries and floats take: 31 years, and 2 GiB.
Milliseconds = partial(Integer, min=0, max=10**12)
Count = partial(Integer, min=0, max=2**31 - 1)  # also of bytes


class LimitOptions(HasTraits):
    """Timeouts (in milliseconds) and limits"""

    timeout = Milliseconds(
        0,
        help="""
        Drop a client's connection after this many milliseconds of silence in a request; 0: never.

        Silence means that nothing moves in either direction. Transfers that make progress
        may take as long as they like.
        """,
    ).tag(config=True, live=True)

    proxy_timeout = Milliseconds(
        0,
        help="""
        Give up on a target that is silent for this many milliseconds in a request; 0: never.

        Before the response's head, the client gets a 503; later, its connection is reset.
        """,
    ).tag(config=True, live=True)

    keep_alive_timeout = Milliseconds(
        5000,
        help="""
        Close a client's connection that has no request for this many milliseconds; 0: the default.

        A load balancer in front of the proxy should have a shorter one than this.
        """,
    ).tag(config=True, live=True)

    drain_delay = Milliseconds(
        0,
        help="""
        How many milliseconds the health check says 503, with all else as before, until the proxy stops.

        So that a load balancer that asks for ``/_chp_healthz`` sends nothing more by the time the
        proxy stops accepting. A second signal ends the wait.
        """,
    ).tag(config=True, live=True)

    drain_timeout = Milliseconds(
        30_000,
        help="""
        How many milliseconds requests that are under way get to finish when the proxy stops.

        Idle connections and WebSockets are closed at once. A second signal ends the wait.
        """,
    ).tag(config=True, live=True)

    connect_timeout = Milliseconds(
        10_000,
        min=1,
        help="""
        Give up on a target that does not accept a connection within this many milliseconds.

        Afterwards, and until it does, only some requests try it again: the others get their
        503 within about a second.
        """,
    ).tag(config=True, live=True)

    head_timeout = Milliseconds(
        60_000,
        min=1,
        help="""
        Close a client's connection whose request head is not complete after this many milliseconds.

        It keeps clients that send a byte now and then from holding connections for ever.
        """,
    ).tag(config=True, live=True)

    tls_handshake_timeout = Milliseconds(
        30_000,
        min=1,
        help="Close a client's connection whose TLS handshake takes longer than this many milliseconds.",
    ).tag(config=True, live=True)

    pool_idle_timeout = Milliseconds(
        60_000,
        min=1,
        help="""
        Close an unused connection to a target after this many milliseconds.

        A target that closes its unused connections earlier than this is no harm: a request
        that meets such a connection is sent again where that is safe.
        """,
    ).tag(config=True, live=True)

    pool_max_idle = Count(
        64,
        help="How many unused connections to one target are kept open; 0: none.",
    ).tag(config=True, live=True)

    max_head_size = Count(
        64 * 1024,
        min=1024,
        help="""
        The largest head of a request or response, in bytes.

        A request with a larger one gets a 431, a response with a larger one becomes a 503.
        """,
    ).tag(config=True, live=True)

    max_request_line = Count(
        16 * 1024,
        min=128,
        help="""
        The longest first line of a request, in bytes; with a longer one it gets a 414.

        It is method, path and query. It is a part of the head, and counts for ``max_head_size`` too.
        """,
    ).tag(config=True, live=True)

    max_field_count = Count(
        256,
        min=1,
        help="How many header lines a request may have; with more it gets a 431.",
    ).tag(config=True, live=True)

    write_buffer_high = Count(
        64 * 1024,
        min=1024,
        help="""
        How many bytes may wait for a slow peer before the sender is paused.

        Each connection may hold as much, so this bounds the memory that slow clients cost.
        """,
    ).tag(config=True, live=True)

    api_max_body_size = Count(
        1024 * 1024,
        min=1,
        help="The largest body of a REST API request, in bytes; a larger one gets a 413.",
    ).tag(config=True)

    max_connections = Count(
        0,
        help="""
        How many connections of clients, WebSockets included, may be open at a time; 0: by the limit of files.

        With more, the proxy stops accepting until one of them ends, and those who come wait in the
        kernel's backlog, as with HAProxy's maxconn; health checks wait with them. The default is
        half of the process's limit of open files, less 32 for other things, so that each connection
        finds a file descriptor for its target.
        """,
    ).tag(config=True, live=True)

    max_connections_per_address = Count(
        0,
        help="""
        How many connections one client's address may have open at a time; 0: any number.

        One more is closed at once, without an answer, and before TLS. The address is that of the
        connection, or what a PROXY header says (``--proxy-protocol``): behind any other load
        balancer, and for users behind one NAT, all have the same.
        """,
    ).tag(config=True, live=True)

    max_connections_per_target = Count(
        0,
        help="""
        How many requests and WebSockets may be under way to one target at a time; 0: any number.

        One more gets a 503 at once. All routes with the same host and port count together.
        """,
    ).tag(config=True)
