"""WebSocket frames (RFC 6455, section 5), as far as an echo needs them."""

from __future__ import annotations

TEXT = 1


def write_frame(opcode: int, payload: bytes, *, masked: bool = False) -> bytes:
    """Write one frame. ``masked`` as a client's has to be, with a key of zeros: it costs no time."""
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes([0x80 | opcode, bit | size])
    elif size < 65536:
        head = bytes([0x80 | opcode, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, bit | 127]) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload if masked else head + payload


def read_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Read all whole frames: opcodes and payloads, and what is left."""
    frames: list[tuple[int, bytes]] = []
    at = 0
    while len(data) >= at + 2:
        size, start = data[at + 1] & 0x7F, at + 2
        if size > 125:
            extra = 2 if size == 126 else 8
            size = int.from_bytes(data[start : start + extra], "big")
            start += extra
        key = b""
        if data[at + 1] & 0x80:
            key = data[start : start + 4]
            start += 4
        if len(data) < start + size:
            break
        payload = data[start : start + size]
        if key.strip(b"\0"):
            payload = _unmask(payload, key)
        frames.append((data[at] & 0x0F, payload))
        at = start + size
    return frames, data[at:]


def _unmask(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
