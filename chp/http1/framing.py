"""Message framing: where content ends (RFC 9112, sections 6 and 7.1)."""

from __future__ import annotations

from typing import Final

LAST_CHUNK: Final = b"0\r\n\r\n"
# RFC 9110, section 9.2.2: repeating these has the same effect as sending them once.
IDEMPOTENT_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


def response_has_no_content(method: bytes, status: int) -> bool:
    """Tell whether a response ends with its head, whatever its fields say (RFC 9112, section 6.3)."""
    return method == b"HEAD" or status in (204, 304) or status < 200


def chunk(content: bytes) -> bytes:
    """Frame content, which may not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)
