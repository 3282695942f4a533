"""The fields of requests and responses, as the settings want them changed."""

from __future__ import annotations

from chp.config.settings import ProxySettings
from chp.http1.fields import FieldRemover, write_fields
from chp.http1.forwarded import forwarded_fields, received_fields
from chp.http1.head import RequestHead
from chp.http1.trust import remove_claims
from chp.servers.connection import ClientConnection


class FieldRules:
    """All that depends on settings about fields, prepared once; new settings need a new one."""

    def __init__(self, settings: ProxySettings) -> None:
        self._x_forward = settings.x_forward
        self._trusted_proxies = settings.trusted_proxies
        names = [name for name, _ in settings.custom_fields]
        self._remove = FieldRemover(names) if names else None
        self._custom_block = write_fields(settings.custom_fields)

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
        if self._remove is not None:
            block = self._remove(block) + self._custom_block
        return block
