"""The sockets of libcurl: watched by number, which a later socket may have again."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pycurl
import pytest

from chp.upstream.curl_sockets import EpollSockets


class User:
    def __init__(self) -> None:
        self.ready: list[tuple[int, int]] = []
        self.idle: list[int] = []

    def socket_ready(self, fd: int, events: int) -> None:
        self.ready.append((fd, events))

    def idle_socket_ready(self, fd: int) -> None:
        self.idle.append(fd)


@pytest.fixture
def sockets() -> Iterator[EpollSockets]:
    loop = asyncio.new_event_loop()
    it = EpollSockets(loop)
    yield it
    it.close()
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def turn(sockets: EpollSockets) -> None:
    """One turn of the loop."""
    sockets._loop.call_soon(sockets._loop.stop)
    sockets._loop.run_forever()


def replace(old: socket.socket) -> socket.socket:
    """Close a socket without a word, and give its number to another one; return that one's peer."""
    number = old.detach()
    ours, theirs = socket.socketpair()
    os.dup2(ours.fileno(), number)
    ours.close()
    return theirs


@pytest.mark.parametrize("watched", [True, False])
def test_a_later_socket_with_the_same_number(
    watched: bool, sockets: EpollSockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    """It may be libcurl's, or one of somebody else, which is nobody's business here."""
    user, number = User(), pair[0].fileno()
    sockets.watch(user, number, pycurl.POLL_IN)
    sockets.watch(user, number, 0)
    with replace(pair[0]) as peer:
        if watched:
            sockets.watch(user, number, pycurl.POLL_IN)
        peer.send(b"x")
        turn(sockets)
    os.close(number)
    assert user.ready == ([(number, pycurl.CSELECT_IN)] if watched else [])
    assert not user.idle


def test_two_users_that_swap_numbers(
    sockets: EpollSockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other, number = User(), User(), pair[0].fileno()
    sockets.watch(one, number, pycurl.POLL_IN)
    sockets.watch(one, number, 0)
    with replace(pair[0]) as peer:
        sockets.watch(other, number, pycurl.POLL_INOUT)
        sockets.drop(one)
        peer.send(b"x")
        turn(sockets)
    os.close(number)
    assert not one.ready
    assert other.ready == [(number, pycurl.CSELECT_IN | pycurl.CSELECT_OUT)]


def test_a_socket_that_nobody_waits_for_is_said_to_be_ready_once(
    sockets: EpollSockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A paused transfer's, or an idle connection's: the loop must not spin."""
    user, number = User(), pair[0].fileno()
    sockets.watch(user, number, pycurl.POLL_IN)
    sockets.watch(user, number, 0)
    pair[1].send(b"x")
    for _ in range(3):
        turn(sockets)
    assert user.idle == [number]
    sockets.watch(user, number, pycurl.POLL_IN)
    turn(sockets)
    assert user.ready == [(number, pycurl.CSELECT_IN)]
