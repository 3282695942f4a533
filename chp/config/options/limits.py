"""Options: timeouts and limits. All times are in milliseconds."""

from __future__ import annotations

from traitlets import HasTraits, Integer


class LimitOptions(HasTraits):
    """Timeouts (in milliseconds) and limits"""

    timeout = Integer(
        0,
        min=0,
        help="""
        Drop a client's connection after this many milliseconds of silence in a request; 0: never.

        Silence means that nothing moves in either direction. Transfers that make progress
        may take as long as they like.
        """,
    ).tag(config=True)

    proxy_timeout = Integer(
        0,
        min=0,
        help="""
        Give up on a target that is silent for this many milliseconds in a request; 0: never.

        Before the response's head, the client gets a 503; later, its connection is reset.
        """,
    ).tag(config=True)

    keep_alive_timeout = Integer(
        5000,
        min=0,
        help="""
        Close a client's connection that has no request for this many milliseconds; 0: the default.

        A load balancer in front of the proxy should have a shorter one than this.
        """,
    ).tag(config=True)

    drain_timeout = Integer(
        5000,
        min=0,
        help="""
        How many milliseconds requests that are under way get to finish when the proxy stops.

        Idle connections and WebSockets are closed at once. A second signal ends the wait.
        """,
    ).tag(config=True)

    connect_timeout = Integer(
        10_000,
        min=1,
        help="""
        Give up on a target that does not accept a connection within this many milliseconds.

        Afterwards, and until it does, only some requests try it again: the others get their
        503 within about a second.
        """,
    ).tag(config=True)

    head_timeout = Integer(
        60_000,
        min=1,
        help="""
        Close a client's connection whose request head is not complete after this many milliseconds.

        It keeps clients that send a byte now and then from holding connections for ever.
        """,
    ).tag(config=True)

    tls_handshake_timeout = Integer(
        30_000,
        min=1,
        help="Close a client's connection whose TLS handshake takes longer than this many milliseconds.",
    ).tag(config=True)

    pool_idle_timeout = Integer(
        60_000,
        min=1,
        help="""
        Close an unused connection to a target after this many milliseconds.

        A target that closes its unused connections earlier than this is no harm: a request
        that meets such a connection is sent again where that is safe.
        """,
    ).tag(config=True)

    pool_max_idle = Integer(
        64,
        min=0,
        help="How many unused connections to one target are kept open; 0: none.",
    ).tag(config=True)

    max_head_size = Integer(
        64 * 1024,
        min=1024,
        help="""
        The largest head of a request or response, in bytes.

        A request with a larger one gets a 431, a response with a larger one becomes a 503.
        """,
    ).tag(config=True)

    max_field_count = Integer(
        256,
        min=1,
        help="How many header lines a request may have; with more it gets a 431.",
    ).tag(config=True)

    write_buffer_high = Integer(
        64 * 1024,
        min=1024,
        help="""
        How many bytes may wait for a slow peer before the sender is paused.

        Each connection may hold as much, so this bounds the memory that slow clients cost.
        """,
    ).tag(config=True)

    api_max_body_size = Integer(
        1024 * 1024,
        min=1,
        help="The largest body of a REST API request, in bytes; a larger one gets a 413.",
    ).tag(config=True)
