"""To hear of writes to a file without looking again and again: Linux's inotify(7)."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_IN_MODIFY = 0x2
_BUFFER = 64 * 1024  # bytes; what does not fit is read by the loop's next turn


@contextmanager
def file_watched(path: str, written: Callable[[], None]) -> Iterator[bool]:
    """Call ``written`` on the running loop after each write to a file, also one that is made later.

    Gives False where the system can't do that: then nothing is called.
    """
    directory, name = os.path.split(os.path.abspath(path))
    watch = _watch(directory)
    if watch is None:
        yield False
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(watch, _read, watch, os.fsencode(name), written)
    try:
        yield True
    finally:
        loop.remove_reader(watch)
        os.close(watch)


def _watch(directory: str) -> int | None:
    """Return a descriptor that is readable when files in this directory are written to."""
    try:
        libc = ctypes.CDLL(None)
        watch: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        add = libc.inotify_add_watch
    except (OSError, AttributeError):  # another system
        return None
    if watch < 0:  # so many of them are there already
        return None
    if add(watch, os.fsencode(directory), _IN_MODIFY) < 0:
        os.close(watch)
        return None
    return watch


def _read(watch: int, name: bytes, written: Callable[[], None]) -> None:
    # A record ends with the name, filled up with zeros. Lost records are no loss: SQLite writes again.
    if name + b"\0" in os.read(watch, _BUFFER):
        written()
