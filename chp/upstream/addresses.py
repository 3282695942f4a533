"""From a host to a connected socket: one lookup for all who ask, and a name's addresses side by side."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import threading
from concurrent.futures import Future
from itertools import chain, zip_longest
from typing import Any, NamedTuple

# Seconds for which a name's addresses are remembered, and of how many names.
_LIFETIME = 5.0
_MAX_NAMES = 1024
# Lookups at a time. Each has a thread, which waits as long as the system's resolver does.
_MAX_LOOKUPS = 64
# RFC 8305, section 8: Connection Attempt Delay, in seconds.
ATTEMPT_DELAY = 0.25


class Address(NamedTuple):
    """One of the addresses of a host."""

    family: int
    protocol: int
    sockaddr: tuple[Any, ...]  # with any port

    async def connect(self, loop: asyncio.AbstractEventLoop, port: int) -> socket.socket:
        """Return a connected socket. Raises OSError."""
        sock = socket.socket(self.family, socket.SOCK_STREAM, self.protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, (self.sockaddr[0], port, *self.sockaddr[2:]))
        except BaseException:
            sock.close()
            raise
        return sock


Addresses = tuple[Address, ...]


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Resolver:
    """Looks names up, one lookup at a time for each, and remembers their addresses for a moment.

    Only success is remembered: a new server's name may appear at any time. Addresses that could
    not be connected to are forgotten.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[str, tuple[Addresses, float]] = {}  # and until when; the oldest is first
        self._lookups: dict[str, asyncio.Task[Addresses]] = {}
        self._places = asyncio.Semaphore(_MAX_LOOKUPS)

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to a host. Raises OSError, and UnicodeError for a bad name."""
        remembered = self.remembered(host)
        if remembered:
            try:
                return await self._connect(host, remembered, port)
            except OSError:
                # It may have moved.
                if set(await self.look_up(host)) == set(remembered):
                    raise
        return await self._connect(host, await self.look_up(host), port)

    async def look_up(self, host: str) -> Addresses:
        """Return the addresses of a host, the best first. Raises OSError or UnicodeError."""
        remembered = self.remembered(host)
        if remembered:
            return remembered
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = self._loop.create_task(self._look_up(host))
            lookup.add_done_callback(lambda _: self._lookups.pop(host, None))
        # It goes on for the others when one who waits for it gives up.
        return await asyncio.shield(lookup)

    def remembered(self, host: str) -> Addresses | None:
        """Return the addresses of a host if they were looked up a moment ago."""
        addresses, until = self._known.get(host, (None, 0.0))
        return addresses if self._loop.time() < until else None

    def forget(self, host: str) -> None:
        """Look a host up again when it is next needed: it could not be connected to."""
        self._known.pop(host, None)

    async def close(self) -> None:
        """Give up all lookups."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _look_up(self, host: str) -> Addresses:
        addresses = in_turn(await self._ask(host))
        self._known.pop(host, None)
        if len(self._known) >= _MAX_NAMES:
            del self._known[next(iter(self._known))]
        self._known[host] = addresses, self._loop.time() + _LIFETIME
        return addresses

    async def _ask(self, host: str) -> list[Address]:
        async with self._places:
            found = await asyncio.wrap_future(_ask_in_thread(host), loop=self._loop)
        return [Address(family, protocol, sockaddr) for family, _, protocol, _, sockaddr in found]

    async def _connect(self, host: str, addresses: Addresses, port: int) -> socket.socket:
        try:
            return await connect_first(self._loop, addresses, port)
        except BaseException:  # also when there was no time to wait for an answer
            self.forget(host)
            raise


def _ask_in_thread(host: str) -> Future[list[Any]]:
    """Ask the system's resolver, in a thread that neither others nor the end of the program wait for.

    Those of loop.getaddrinfo() are few, and the route store's too: a name server that is silent would
    hold up all of these, and both event loops and the interpreter when they are closed.
    """
    done: Future[list[Any]] = Future()
    done.set_running_or_notify_cancel()  # now it can't be cancelled

    def ask() -> None:
        try:
            done.set_result(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except Exception as error:
            done.set_exception(error)

    try:
        threading.Thread(target=ask, name="chp-lookup", daemon=True).start()
    except RuntimeError:  # no more threads
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    return done


def in_turn(addresses: list[Address]) -> Addresses:
    """Order addresses so that their families take turns (RFC 8305, section 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    return tuple(address for address in chain(*zip_longest(*families.values())) if address is not None)


async def connect_first(loop: asyncio.AbstractEventLoop, addresses: Addresses, port: int) -> socket.socket:
    """Return a socket that is connected to one of the addresses (RFC 8305, section 5).

    The next one is tried when those before it have failed, or have not answered for a moment.
    Raises the OSError of the last one.
    """
    if len(addresses) == 1:
        return await addresses[0].connect(loop, port)
    attempts: list[asyncio.Task[socket.socket]] = []
    winner = None
    try:
        while winner is None:
            waiting = [attempt for attempt in attempts if not attempt.done()]
            untried = len(attempts) < len(addresses)
            if untried:
                waiting.append(loop.create_task(addresses[len(attempts)].connect(loop, port)))
                attempts.append(waiting[-1])
            elif not waiting:
                return attempts[-1].result()  # raises
            more = len(attempts) < len(addresses)
            await asyncio.wait(
                waiting, timeout=ATTEMPT_DELAY if more else None, return_when=asyncio.FIRST_COMPLETED
            )
            winner = next((one for one in attempts if one.done() and not one.exception()), None)
        return winner.result()
    finally:
        others = [attempt for attempt in attempts if attempt is not winner]
        for attempt in others:
            attempt.cancel()
        try:
            await asyncio.gather(*others, return_exceptions=True)
        except asyncio.CancelledError:
            others = attempts  # nobody wants that of the winner any more
            raise
        finally:
            for attempt in others:
                if attempt.done() and not attempt.cancelled() and not attempt.exception():
                    attempt.result().close()
