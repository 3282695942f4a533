"""A file of lines that the event loop never waits for: a thread of its own writes them, many at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from chp.errors import ConfigError

STDOUT = "-"
# Seconds that a line waits for others: one write for all of them.
_DELAY = 0.2
# Bytes that wait for a disk or pipe that takes nothing; then lines are lost, and counted.
_MAX_WAITING = 4 * 1024 * 1024
# Seconds that the last lines get when the program ends.
_CLOSE_TIMEOUT = 2.0
# Whoever may read the program's own log need not be everybody.
_MODE = 0o640
_LINE_FEED = 10

_Jobs = SimpleQueue[tuple[Future[None], Callable[[], None]] | None]


class LogFile:
    """Appends lines to a file, or to standard output."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, log: logging.Logger) -> None:
        """``log`` is told when lines can't be written. Raises :class:`ConfigError` if that is so already."""
        self._path = path
        self._loop = loop
        self._log = log
        self._waiting: list[bytes] = []
        self._size = 0  # bytes that wait
        self._lost = 0  # lines, since the last one that was written
        self._in_flight = 0  # lines that the thread has
        self._failed = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        try:
            self._descriptor = _open(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"can't write to {path}: {_reason(error)}") from None
        # From here on the thread alone uses the descriptor. No thread of an executor: the interpreter
        # would wait at its end for one that a disk or pipe holds.
        self._torn = False  # the file ends within a line
        self._jobs: _Jobs = SimpleQueue()
        threading.Thread(target=_work, args=(self._jobs,), name="chp-log", daemon=True).start()

    def write(self, line: bytes) -> None:
        """Take a line, which ends with LF. It is written within a fraction of a second."""
        if self._closed:
            return
        if self._size + len(line) > _MAX_WAITING:
            self._lost += 1
            return
        self._waiting.append(line)
        self._size += len(line)
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(_DELAY, self._flush)

    def reopen(self) -> None:
        """Go on in a new file of the same name: the old one was moved away. Standard output stays."""
        if self._path != STDOUT and not self._closed:
            self._flush()
            self._run(self._open_again).add_done_callback(self._reopened)

    async def close(self) -> None:
        """Write what is left, and release the file. What comes later is ignored."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_CLOSE_TIMEOUT)
        self._flush()
        self._closed = True
        last = self._run(self._release)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(last), _CLOSE_TIMEOUT)
        self._jobs.put(None)

    # -- private -----------------------------------------------------------

    def _run(self, job: Callable[[], None]) -> asyncio.Future[None]:
        done: Future[None] = Future()
        self._jobs.put((done, job))
        return asyncio.wrap_future(done, loop=self._loop)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self._writing is None:
            self._in_flight = len(self._waiting)
            data, self._waiting, self._size = b"".join(self._waiting), [], 0
            self._writing = self._run(lambda: self._write_out(data))
            self._writing.add_done_callback(self._written)

    def _written(self, done: asyncio.Future[None]) -> None:
        self._writing = None
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._lost += self._in_flight
            if not self._failed:
                self._log.error("Can't write to the access log %s: %s", self._path, _reason(error))
        elif self._lost:
            self._log.error("%d lines of the access log were lost", self._lost)
            self._lost = 0
        self._failed = error is not None
        if self._waiting:
            self._timer = self._loop.call_later(_DELAY, self._flush)

    def _reopened(self, done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._log.error("Can't open the access log %s again: %s", self._path, _reason(error))

    # -- in the thread -----------------------------------------------------

    def _write_out(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        view = memoryview(data)
        while view:
            try:
                count = os.write(self._descriptor, view)
            except BlockingIOError:  # another program that shares the pipe may have made it so
                select.select([], [self._descriptor], [], 1.0)
            else:
                self._torn = view[count - 1] != _LINE_FEED
                view = view[count:]

    def _open_again(self) -> None:
        old, self._descriptor = self._descriptor, _open(self._path)
        self._torn = False
        os.close(old)

    def _release(self) -> None:
        if self._path != STDOUT:
            os.close(self._descriptor)


def _open(path: str) -> int:
    if path == STDOUT:
        return 1
    # Without O_NONBLOCK, to open a pipe would wait until somebody reads it.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, _MODE)
    os.set_blocking(descriptor, True)
    return descriptor


def _work(jobs: _Jobs) -> None:
    while (item := jobs.get()) is not None:
        done, job = item
        try:
            job()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENXIO:
        return "it is a pipe that nobody reads"
    return (isinstance(error, OSError) and error.strerror) or str(error)
