"""chp/handlers/frames.py: where the frames of a WebSocket end, however they are cut into reads."""

import random

import pytest

from chp.handlers.frames import Frames


def frame(length, *, masked, first=0x82):
    mask = 0x80 if masked else 0
    if length < 126:
        head = bytes((first, mask | length))
    elif length < 2**16:
        head = bytes((first, mask | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + length.to_bytes(8, "big")
    # Payload that looks like anything.
    return head + (b"mask" if masked else b"") + random.Random(length).randbytes(length)


LENGTHS = (0, 1, 4, 100, 121, 122, 125, 126, 127, 128, 129, 65_535, 65_536, 70_000, 2, 0, 0, 7)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 14, 100, 4096, 10**6])
def test_it_is_between_frames_exactly_where_one_ends(masked, step):
    """The bytes are gone after each call, as those of the receive buffer are."""
    stream, ends = b"", {0}
    for length in LENGTHS:
        stream += frame(length, masked=masked)
        ends.add(len(stream))
    frames = Frames(masked=masked)
    for at in range(0, len(stream), step):
        assert (frames.left == 0) is (at in ends), at
        buffer = bytearray(stream[at : at + step])
        frames.passed(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
    assert frames.left == 0


@pytest.mark.parametrize("masked", [False, True])
def test_the_offset_tells_a_small_frame_from_all_else(masked):
    """What TunnelEnd asks before it calls ``passed``: is this read one whole frame?"""
    offset = Frames(masked=masked).offset
    for size in range(6, 128):
        for second in range(256):
            length = second & 0x7F
            whole = size == 2 + 4 * masked + length and (second > 127) is masked and length < 126
            assert (second == size + offset) is whole, (size, second)


def test_the_close_frame_to_a_client_is_plain_and_to_a_server_masked():
    assert Frames(masked=False).close_frame() == b"\x88\x02\x03\xe9"
    close = Frames(masked=True).close_frame()
    assert close[:2] == b"\x88\x82"
    assert bytes(byte ^ key for byte, key in zip(close[6:], close[2:], strict=False)) == b"\x03\xe9"
    assert len({Frames(masked=True).close_frame() for _ in range(10)}) > 1
