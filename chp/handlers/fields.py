"""The fields of requests and responses, as the settings want them changed."""

from __future__ import annotations

from chp.config.settings import ProxySettings
from chp.http1.fields import Field, FieldRemover, write_fields
from chp.http1.forwarded import forwarded_fields, received_fields
from chp.http1.head import RequestHead
from chp.http1.trust import remove_claims
from chp.servers.connection import ClientConnection


class FieldRules:
    """All that depends on settings about fields, prepared once; new settings need a new one."""

    def __init__(self, settings: ProxySettings) -> None:
        self._x_forward = settings.x_forward
        self._trusted_proxies = settings.trusted_proxies
        self._request = _Change(settings.custom_fields, settings.removed_from_requests)
        self._response = _Change(settings.response_fields, settings.removed_from_responses)
        self.changes_requests = self._request.needed
        self.changes_responses = self._response.needed

    def outgoing(self, head: RequestHead, host: bytes, connection: ClientConnection) -> bytes:
        """Return the block of fields for the target. Nothing in it depends on the request's path."""
        block = b"\r\nHost: " + host + head.block
        trusted = self._trusted_proxies
        believed = trusted is None or trusted.trusts(connection.client)
        if not believed:
            block = remove_claims(block)
        if self._x_forward:
            block += forwarded_fields(head, connection.client, connection.tls, believed=believed)
        elif believed and head.forwarded:
            block += received_fields(head)
        return self._request(block) if self.changes_requests else block

    def response(self, block: bytes) -> bytes:
        """Return the block of fields of a response as the client gets it. For ``changes_responses`` only."""
        return self._response(block)


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
