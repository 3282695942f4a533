"""The contract between an exchange and the upstream that carries it.

An exchange hands over an :class:`UpstreamRequest` and itself as the
:class:`Receiver`, and gets a :class:`Stream`. From then on:

- Content of the request goes to ``Stream.send``, unframed, until one call
  says ``complete``. After ``Receiver.pause_request`` the exchange should stop
  (what it still sends is kept), until ``resume_request``.
- Content may be a view of the receive buffer: who keeps it has to copy it.
- The response comes as any number of ``informational``, then either
  ``response_received`` (with the head in the first call, ``complete`` in the
  last) or ``upgraded``. ``failed`` ends it at any point. After ``complete``,
  ``upgraded`` or ``failed`` no further callback follows.
- ``Stream.pause_response`` and ``resume_response`` hold content back. One
  more ``response_received`` may follow a pause.
- ``Stream.abort`` ends the exchange without any further callback; its
  connection is closed.

Of the callbacks, only ``pause_request`` may come from inside ``open`` and ``send``.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from chp.config.settings import ProxySettings
from chp.http1.fields import Field, parse_fields, write_fields
from chp.http1.framing import IDEMPOTENT_METHODS
from chp.http1.head import ResponseHead
from chp.http1.target import Origin

if TYPE_CHECKING:
    import asyncio

    from chp.errors import UpstreamError

_NEVER_IN_FIELD = re.compile(rb"[\r\n\0]")


class UpstreamRequest:
    """The outgoing head of a request. A ``proxy_request`` hook may change it.

    ``block`` holds the end-to-end fields as they go on the wire (see
    :mod:`chp.http1.fields`), Host among them; the upstream adds Content-Length
    or Transfer-Encoding, and what an upgrade needs.
    """

    __slots__ = ("block", "chunked", "content_length", "method", "origin", "target", "upgrade")

    def __init__(
        self,
        origin: Origin,
        method: bytes,
        target: bytes,
        block: bytes,
        *,
        content_length: int | None = None,
        chunked: bool = False,
        upgrade: bytes = b"",
    ) -> None:
        self.origin = origin
        self.method = method
        self.target = target  # the request-target: path and query
        self.block = block
        self.content_length = content_length  # bytes; None: no such field
        self.chunked = chunked
        self.upgrade = upgrade  # value of Upgrade, empty for none

    @property
    def fields(self) -> list[Field]:
        """The fields as pairs of bytes, in order. Assign any iterable of such pairs to change them.

        Raises ValueError for a name or value with CR, LF or NUL.
        """
        return parse_fields(self.block)

    @fields.setter
    def fields(self, fields: Iterable[Field]) -> None:
        # mypyc does not check what a setter gets: with list[Field], a hook's tuple is a segmentation fault.
        pairs = list(fields)
        if any(_NEVER_IN_FIELD.search(part) for pair in pairs for part in pair):
            raise ValueError("CR, LF or NUL in a field")
        self.block = write_fields(pairs)

    @property
    def idempotent(self) -> bool:
        return self.method in IDEMPOTENT_METHODS and not self.upgrade


class Receiver(Protocol):
    """Who gets the response: an exchange, or an error page on its way to one."""

    __slots__ = ()

    @abstractmethod
    def informational(self, head: ResponseHead) -> None:
        """A 1xx response other than 101 came."""

    @abstractmethod
    def response_received(
        self, head: ResponseHead | None, content: bytes | memoryview, complete: bool
    ) -> None:
        """What one read brought; ``content`` is unframed and may be empty."""

    @abstractmethod
    def upgraded(self, head: ResponseHead, transport: asyncio.Transport, early: bytes) -> None:
        """The upstream answered 101. The transport now belongs to the receiver.

        It must set a protocol of its own before it returns. ``early`` are
        bytes of the new protocol that came with the head.
        """

    @abstractmethod
    def failed(self, error: UpstreamError) -> None:
        """The exchange is over without a (complete) response."""

    @abstractmethod
    def pause_request(self) -> None:
        """The upstream takes no more content for now."""

    @abstractmethod
    def resume_request(self) -> None:
        """The upstream takes content again."""


class Stream(Protocol):
    """One request and its response, seen from the exchange."""

    __slots__ = ()

    @abstractmethod
    def send(self, content: bytes | memoryview, complete: bool) -> None:
        """Pass on content of the request; ``complete`` says that it was the last."""

    @abstractmethod
    def pause_response(self) -> None:
        """Stop reading the response: the client is slow."""

    @abstractmethod
    def resume_response(self) -> None:
        """Read on."""

    @abstractmethod
    def abort(self) -> None:
        """Give up. Does nothing when the exchange is over."""


class Upstream(Protocol):
    """Carries requests to origins, over connections that it keeps."""

    @abstractmethod
    def open(
        self, request: UpstreamRequest, content: bytes | memoryview, complete: bool, receiver: Receiver
    ) -> Stream:
        """Send a request with the content that is at hand; ``complete``: that is all of it.

        It may be a view of the receive buffer: it is sent at once, or copied.
        Never raises for a failure of the network: ``receiver.failed`` says it,
        and not before this returned.
        """

    @abstractmethod
    def close_idle(self, origin: Origin) -> None:
        """Close the idle connections to an origin. Running exchanges go on."""

    @abstractmethod
    def use(self, settings: ProxySettings) -> None:
        """Carry requests with these settings from now on, on new connections. Running exchanges go on."""

    @abstractmethod
    async def close(self) -> None:
        """Abort everything and wait until it is gone."""
