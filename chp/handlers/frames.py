"""Where the frames of a WebSocket end (RFC 6455, section 5.2): there the proxy may say goodbye itself."""

from __future__ import annotations

import os

GOING_AWAY = (1001).to_bytes(2, "big")  # RFC 6455, section 7.4.1
_CLOSE = 0x88  # the last (and only) frame of a Close
_MASKED = 0x80


class Frames:
    """Walks over the frames of one direction as they pass, by their lengths: no payload is looked at.

    ``masked``: it is the direction from client to server (RFC 6455, section 5.1).
    """

    __slots__ = ("_head", "_masked", "left", "offset")

    def __init__(self, *, masked: bool) -> None:
        self.left = 0  # at least so many bytes are missing until a frame ends; 0: none has begun
        # What the second byte of a small frame (up to 125 bytes of payload) says more than its size.
        self.offset = _MASKED - 6 if masked else -2
        self._masked = masked
        self._head = b""  # of a frame, and too short to tell its length

    def passed(self, data: bytes | memoryview) -> None:
        """Go on over bytes that were passed on. None of them is kept but the beginning of a head."""
        at = self.left
        if self._head:
            data, at = self._head + data, 0
            self._head = b""
        end = len(data)
        while at < end:
            size = _frame_size(data, at, end)
            if not size:
                self._head = bytes(data[at:])
                self.left = 1
                return
            at += size
        self.left = at - end

    def close_frame(self) -> bytes:
        """Return a Close that says that this endpoint is going away."""
        if not self._masked:
            return bytes((_CLOSE, len(GOING_AWAY))) + GOING_AWAY
        key = os.urandom(4)  # RFC 6455, section 5.3
        payload = bytes(byte ^ mask for byte, mask in zip(GOING_AWAY, key, strict=False))
        return bytes((_CLOSE, _MASKED | len(GOING_AWAY))) + key + payload


def _frame_size(data: bytes | memoryview, at: int, end: int) -> int:
    """Return the size of the frame that begins there, with its head; 0: more must come to tell it."""
    if at + 2 > end:
        return 0
    second = data[at + 1]
    size, length = (6, second - _MASKED) if second & _MASKED else (2, second)
    if length < 126:
        return size + length
    more = 2 if length == 126 else 8
    if at + 2 + more > end:
        return 0
    return size + more + int.from_bytes(data[at + 2 : at + 2 + more], "big")
