"""Options: what changes in a request and its response on their way."""

from __future__ import annotations

import re
from typing import Any

from traitlets import Bool, Callable, Enum, HasTraits, List, TraitError, Unicode, validate
from traitlets.utils.bunch import Bunch

from chp.http1.trust import TrustedProxies

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
# RFC 9110 section 5.5; and what a command line has in the place of bytes that are no UTF-8.
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
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


def split_header(line: str, kind: str = "custom header") -> tuple[str, str]:
    """Take ``Name: value`` apart. Raises ``TraitError`` if it is no header line; ``kind`` says which."""
    name, colon, value = line.strip().partition(":")
    name = name.strip()
    if not colon or not name:
        raise TraitError(f"A colon was expected in {kind}: {line.strip()}")
    check_name(name, kind)
    if _NOT_IN_VALUE.search(value):
        raise TraitError(f"Invalid character in the value of the {kind} {name}")
    return name, value.strip()


def check_name(name: str, kind: str) -> None:
    """Raise ``TraitError`` for what is no name, or the name of a header that is the proxy's own business."""
    if not _TOKEN.fullmatch(name):
        raise TraitError(f"Invalid name of a {kind}: {name!r}")
    if name.lower() in _RESERVED:
        raise TraitError(f"The {kind} {name} would change how messages are framed or connections kept")


def trusted_proxies(entries: list[str]) -> TrustedProxies | None:
    """Return whose word counts, None for everybody's. Raises ``TraitError``.

    An entry may be several, with commas between them, as the command line has them.
    """
    parts = [part.strip() for entry in entries for part in entry.split(",")]
    if not parts:
        return None
    try:
        return TrustedProxies(parts)
    except ValueError as error:
        raise TraitError(f"trusted_proxies: {error}; a network is written as 10.0.0.0/8") from None


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

    trusted_proxies = List(
        Unicode(),
        help="""
        Believe what these proxies in front say of the client, and nobody else; may be given more than once.

        ``--trusted-proxies 10.0.0.0/8 --trusted-proxies 192.0.2.7``: IP addresses and networks, also
        with commas between them; ``unix:`` stands for whoever connects to the unix socket, and
        ``none`` for nobody (there is no proxy in front). From everybody else, ``X-Forwarded-*``,
        ``Forwarded``, ``X-Real-IP`` and ``X-Scheme`` are dropped, so that no client can pretend to be
        another. The client's address in the access log is then the
        last one in ``X-Forwarded-For`` that is not one of these proxies.

        Without this option everything that clients send is passed on, with the proxy's own values
        behind it, as in configurable-http-proxy.
        """,
    ).tag(config=True, live=True, metavar="CIDR")

    @validate("trusted_proxies")
    def _check_trusted_proxies(self, proposal: Bunch) -> list[str]:
        entries: list[str] = proposal.value
        trusted_proxies(entries)
        return entries

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

    remove_request_header = List(
        Unicode(),
        help="""
        Leave this header out of proxied requests; may be given more than once.

        It is left out also where the proxy would add it itself, as with ``X-Forwarded-Host``.
        What ``--custom-header`` says is sent.
        """,
    ).tag(config=True, live=True, metavar="NAME")

    custom_response_header = List(
        Unicode(),
        help="""
        Add a header to responses; may be given more than once.

        ``--custom-response-header 'Strict-Transport-Security: max-age=31536000'``. It replaces
        the same header of the target; of several with the same name the last one is sent. Error
        pages, and all else that the proxy answers itself, have it too; redirects of
        ``--redirect-port`` do not.
        """,
    ).tag(config=True, live=True, metavar="NAME:VALUE")

    remove_response_header = List(
        Unicode(),
        help="""
        Leave this header out of responses, for example ``Server``; may be given more than once.

        What ``--custom-response-header`` says is sent.
        """,
    ).tag(config=True, live=True, metavar="NAME")

    @validate("custom_header", "custom_response_header")
    def _check_custom_header(self, proposal: Bunch) -> list[str]:
        lines: list[str] = proposal.value
        for line in lines:
            split_header(line, proposal.trait.name.replace("_", " "))
        return lines

    @validate("remove_request_header", "remove_response_header")
    def _check_removed_header(self, proposal: Bunch) -> list[str]:
        names: list[str] = proposal.value
        for name in names:
            check_name(name, "removed header")
            if name.lower() == "host" and proposal.trait.name == "remove_request_header":
                raise TraitError("The removed header Host is one that every request needs")
        return names

    request_id_header = Unicode(
        "",
        help="""
        Give every request an id in this header, for example ``X-Request-ID``; by default there is none.

        The target gets it, and the client with the response; it is in the access log, and in the
        log where a request fails. One that came with the request is kept if one of
        ``--trusted-proxies`` sent it and it has at most 128 letters, digits and ``._~:;=+/@-``;
        otherwise the id is new and random.
        """,
    ).tag(config=True, live=True, metavar="NAME")

    @validate("request_id_header")
    def _check_request_id_header(self, proposal: Bunch) -> Any:
        if proposal.value:
            check_name(proposal.value, "request id header")
            if proposal.value.lower() == "host":
                raise TraitError("The request id header can't be Host")
        return proposal.value

    proxy_request = Callable(
        None,
        allow_none=True,
        help="""
        A function that may change each outgoing request before it is sent.

        For a configuration file only. It is called with the head of the request for the
        target, and has to be quick: all other requests wait for it.
        """,
    ).tag(config=True, live=True, flag=False)
