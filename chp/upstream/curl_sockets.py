"""Waits for the sockets of libcurl, which come and go with each transfer."""

from __future__ import annotations

import asyncio
import select
from typing import Protocol

import pycurl

_IN, _OUT = pycurl.POLL_IN, pycurl.POLL_OUT


class SocketUser(Protocol):
    """Whose sockets these are."""

    def socket_ready(self, fd: int, events: int) -> None:
        """Something has come, or can be sent (``pycurl.CSELECT_*``)."""

    def idle_socket_ready(self, fd: int) -> None:
        """Something has come, or the connection was closed, while nobody waited."""


class Sockets:
    """Watches sockets with the event loop's own methods."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: dict[int, int] = {}

    def watch(self, user: SocketUser, fd: int, events: int) -> None:
        """Wait for these events (``pycurl.POLL_*``, 0 for none) and no others."""
        loop, changed = self._loop, self._events.get(fd, 0) ^ events
        if changed & _IN:
            if events & _IN:
                loop.add_reader(fd, user.socket_ready, fd, pycurl.CSELECT_IN)
            else:
                loop.remove_reader(fd)
        if changed & _OUT:
            if events & _OUT:
                loop.add_writer(fd, user.socket_ready, fd, pycurl.CSELECT_OUT)
            else:
                loop.remove_writer(fd)
        if events:
            self._events[fd] = events
        else:
            self._events.pop(fd, None)

    def reads(self, fd: int) -> bool:
        """Tell whether somebody waits for what a socket receives, and for nothing else."""
        return bool(self._events.get(fd) == _IN)

    def drop(self, user: SocketUser) -> None:
        """A user has closed all of its sockets; it waits for none of them."""

    def close(self) -> None:
        """Nobody uses this any more."""


class EpollSockets(Sockets):
    """Watches sockets with an epoll of its own, which the event loop watches.

    libcurl stops waiting for a socket when its transfer is complete and begins
    again with the next. To the loop this would be six calls of the kernel for
    each request; here the socket stays in the epoll meanwhile. The kernel takes
    it out when libcurl closes it, which libcurl does without a word.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._epoll = select.epoll()
        self._users: dict[int, SocketUser] = {}  # of sockets that are in the epoll, or were closed since
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, user: SocketUser, fd: int, events: int) -> None:
        if not events:
            self._events.pop(fd, None)
            return
        self._events[fd] = events
        self._users[fd] = user
        mask = (select.EPOLLIN if events & _IN else 0) | (select.EPOLLOUT if events & _OUT else 0)
        try:
            self._epoll.modify(fd, mask)
        except FileNotFoundError:  # a new socket, perhaps with the number of an old one
            self._epoll.register(fd, mask)

    def drop(self, user: SocketUser) -> None:
        for fd in [fd for fd, its_user in self._users.items() if its_user is user]:
            del self._users[fd]
            self._events.pop(fd, None)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        for fd, mask in self._epoll.poll(0):
            user, wanted = self._users.get(fd), self._events.get(fd, 0)
            if user is None:
                continue
            if wanted:
                events = 0
                if wanted & _IN and mask & ~select.EPOLLOUT:
                    events |= pycurl.CSELECT_IN
                if wanted & _OUT and mask & ~select.EPOLLIN:
                    events |= pycurl.CSELECT_OUT
                user.socket_ready(fd, events)
            else:
                try:
                    self._epoll.unregister(fd)
                except OSError:
                    continue  # one of the sockets before it in this list has led to its end
                user.idle_socket_ready(fd)


def make_sockets(loop: asyncio.AbstractEventLoop) -> Sockets:
    return EpollSockets(loop) if hasattr(select, "epoll") else Sockets(loop)
