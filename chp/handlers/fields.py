"""The fields of requests and responses, as the settings want them changed."""

from __future__ import annotations

import os
import re

from chp.config.settings import ProxySettings
from chp.http1.fields import Field, FieldRemover, write_fields
from chp.http1.forwarded import forwarded_fields, received_fields
from chp.http1.head import FORWARDED, RequestHead
from chp.http1.loop import passage
from chp.http1.trust import remove_claims
from chp.servers.connection import ClientConnection

# Nothing in it means anything to a log, or to whoever reads one.
_ID = re.compile(rb"[0-9A-Za-z._~:;=+/@-]{1,128}")


class FieldRules:
    """All that depends on settings about fields, prepared once; new settings need a new one."""

    def __init__(self, settings: ProxySettings) -> None:
        self._x_forward = settings.x_forward
        self._trusted_proxies = settings.trusted_proxies
        own = (settings.request_id_name,) if settings.request_id_name else ()
        self._request = _Change(settings.custom_fields, settings.removed_from_requests + own)
        self._response = _Change(settings.response_fields, settings.removed_from_responses + own)
        self.changes_requests = self._request.needed
        self.changes_responses = self._response.needed
        self.gives_ids = bool(own)
        # Where the target may get no X-Forwarded-*, and could not tell a request that comes from a proxy.
        removed = {name.lower() for name in settings.removed_from_requests}
        self._notes_all = not self._x_forward or removed.issuperset(FORWARDED)
        self._id_name = settings.request_id_name
        self._id_field = re.compile(rb"\r\n" + re.escape(self._id_name) + rb":[ \t]*([^\r]*)", re.IGNORECASE)

    def outgoing(self, head: RequestHead, host: bytes, connection: ClientConnection) -> bytes:
        """Return the block of fields for the target. Nothing in it depends on the request's path.

        Raises :class:`~chp.errors.LoopDetected`.
        """
        block = b"\r\nHost: " + host + head.block
        trusted = self._trusted_proxies
        believed = trusted is None or trusted.trusts(connection.client)
        if not believed:
            block = remove_claims(block)
        if self._x_forward:
            block += forwarded_fields(head, connection.client, connection.tls, believed=believed)
        elif believed and head.forwarded:
            block += received_fields(head)
        # A request that goes round comes from a proxy from the second time on: others need no note.
        if head.forwarded or head.cdn_loop or self._notes_all:
            block += passage(head.cdn_loop)
        return self._request(block) if self.changes_requests else block

    def response(self, block: bytes, request_id: bytes = b"") -> bytes:
        """Return the block of fields of a response as the client gets it. For ``changes_responses`` only."""
        block = self._response(block)
        return block + self.id_line(request_id) if request_id else block

    def client(self, head: RequestHead, peer: bytes) -> bytes:
        """Return the client's address for the log: a trusted proxy says who it is. Empty on a unix socket."""
        trusted = self._trusted_proxies
        return peer if trusted is None else trusted.client(peer, head.forwarded.get(b"x-forwarded-for", b""))

    def request_id(self, head: RequestHead, peer: bytes) -> bytes:
        """Return the id that came from a trusted proxy, else a new one. For ``gives_ids`` only."""
        if self._trusted_proxies is not None and self._trusted_proxies.trusts(peer):
            sent = self._id_field.findall(head.block)
            if len(sent) == 1 and _ID.fullmatch(sent[0].rstrip(b" \t")):
                value: bytes = sent[0].rstrip(b" \t")
                return value
        return os.urandom(16).hex().encode()

    def id_line(self, request_id: bytes) -> bytes:
        """Return the block that says it: nothing if ids are no longer wanted since the request came."""
        return b"\r\n%b: %b" % (self._id_name, request_id) if self.gives_ids else b""


class _Change:
    """Fields that are set, and names of fields that go."""

    __slots__ = ("_added", "_remove", "needed")

    def __init__(self, fields: tuple[Field, ...], names: tuple[bytes, ...]) -> None:
        names += tuple(name for name, _ in fields)
        self.needed = bool(names)
        self._remove = FieldRemover(names)
        self._added = write_fields(fields)

    def __call__(self, block: bytes) -> bytes:
        return self._remove(block) + self._added
