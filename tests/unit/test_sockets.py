"""chp/sockets.py, with a socket that takes as much as a test says."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import Mock

import pytest

from chp.sockets import write_through

HEAD, CONTENT = b"HTTP/1.1 200 OK\r\n\r\n", bytes(range(256)) * 100


@pytest.mark.parametrize("head", [b"", HEAD], ids=["content", "head and content"])
@pytest.mark.parametrize("taken", [-1, 0, 1, len(HEAD), len(HEAD) + 1, 10**6])
def test_what_a_socket_does_not_take_is_left_to_its_transport(
    taken: int, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire: list[bytes] = []

    def write(descriptor: int, data: Any) -> int:
        if taken < 0:
            raise BlockingIOError
        wire.append(bytes(data)[:taken])
        return len(wire[0])

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: write(descriptor, b"".join(parts)))
    transport = Mock(write=wire.append)
    transport.get_write_buffer_size.return_value = 0
    transport.is_closing.return_value = False
    write_through(transport, 7, head, memoryview(CONTENT))
    assert b"".join(wire) == head + CONTENT
    assert all(isinstance(part, bytes) for part in wire)  # no view of the receive buffer is kept
