"""chp/http1/loop.py: CDN-Loop."""

from __future__ import annotations

import pytest

from chp.errors import LoopDetected
from chp.http1.loop import MAX_PASSAGES, passage


@pytest.mark.parametrize(
    ("received", "noted"),
    [
        (b"", b"chp"),
        (b"chp", b"chp, chp"),
        (b"example.com;v=1", b"example.com;v=1, chp"),
    ],
)
def test_each_passage_is_noted_behind_those_before(received: bytes, noted: bytes) -> None:
    assert passage(received) == b"\r\nCDN-Loop: " + noted


def test_too_many_are_a_loop() -> None:
    received = b""
    for _ in range(MAX_PASSAGES):
        received = passage(received).partition(b": ")[2]
    with pytest.raises(LoopDetected):
        passage(received)
    with pytest.raises(LoopDetected):
        passage(received.replace(b", ", b",\t").upper())


def test_those_of_others_do_not_count() -> None:
    assert passage(b", ".join([b"other", b"chp.example.com"] * 20)).endswith(b", chp")
