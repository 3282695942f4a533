"""Options: what changes in a request and its response on their way."""

from __future__ import annotations

import re

from traitlets import Bool, Callable, Enum, HasTraits, List, TraitError, Unicode, validate
from traitlets.utils.bunch import Bunch

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5
# What the proxy itself says on each of its connections.
_RESERVED = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


def split_header(line: str) -> tuple[str, str]:
    """Take ``Name: value`` apart. Raises ``TraitError`` if it is no header line."""
    name, colon, value = line.strip().partition(":")
    name = name.strip()
    if not colon or not name:
        raise TraitError(f"A colon was expected in custom header: {line.strip()}")
    if not _TOKEN.fullmatch(name):
        raise TraitError(f"Invalid name of a custom header: {name!r}")
    if name.lower() in _RESERVED:
        raise TraitError(f"The custom header {name} would change how messages are framed or connections kept")
    if _NOT_IN_VALUE.search(value):
        raise TraitError(f"Invalid character in the value of the custom header {name}")
    return name, value.strip()


class ForwardingOptions(HasTraits):
    """Forwarded requests and responses"""

    upstream = Enum(
        ["auto", "direct", "curl"],
        "auto",
        help="""
        What carries requests to targets: direct, curl, or auto for curl with https targets only.

        direct is the faster one; curl speaks through libcurl, with its TLS. WebSockets always
        go direct.
        """,
    ).tag(config=True, metavar="NAME")

    x_forward = Bool(
        True,
        help="""
        Add ``X-Forwarded-*`` headers to proxied requests.

        They tell the target the client's address, and the host, port and protocol that the
        client used.
        """,
    ).tag(config=True, live=True)

    prepend_path = Bool(
        True,
        help="Prepend the path of the target's URL to the path of proxied requests.",
    ).tag(config=True, live=True)

    include_prefix = Bool(
        True,
        help="""
        Include the routing prefix in proxied requests.

        Without it, a request for ``/user/x/tree`` on the route ``/user/x`` is sent on as ``/tree``.
        """,
    ).tag(config=True, live=True)

    auto_rewrite = Bool(
        False,
        help="Rewrite host and port of the Location in redirects that point at the target.",
    ).tag(config=True, live=True)

    protocol_rewrite = Enum(
        ["", "http", "https"],
        "",
        help="Rewrite the protocol of the Location in redirects that point at the target: http or https.",
    ).tag(config=True, live=True, metavar="PROTO")

    change_origin = Bool(
        False,
        help="Send the target's host and port as Host, instead of what the client sent.",
    ).tag(config=True, live=True)

    custom_header = List(
        Unicode(),
        help="""
        Add a header to proxied requests; may be given more than once.

        ``--custom-header 'X-Served-By: hub'``, or in a file
        ``c.ConfigurableProxy.custom_header = ["X-Served-By: hub"]``. It replaces the same
        header of the client; of several with the same name the last one is sent.
        """,
    ).tag(config=True, live=True, metavar="NAME:VALUE")

    @validate("custom_header")
    def _check_custom_header(self, proposal: Bunch) -> list[str]:
        lines: list[str] = proposal.value
        for line in lines:
            split_header(line)
        return lines

    proxy_request = Callable(
        None,
        allow_none=True,
        help="""
        A function that may change each outgoing request before it is sent.

        For a configuration file only. It is called with the head of the request for the
        target, and has to be quick: all other requests wait for it.
        """,
    ).tag(config=True, live=True, flag=False)
