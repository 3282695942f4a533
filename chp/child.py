"""A child process that says when it is ready, and whose end is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

from chp.notify import NotifyListener
from chp.processes import ending

# Seconds between two looks at a process that is to end, and until one that was killed must be gone.
_LOOK_INTERVAL = 0.02
_KILL_TIMEOUT = 5.0


class Child:
    """Runs a command in a session of its own, so that it outlives the parent if need be."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], *, umask: int = -1) -> None:
        """Start it, on the running event loop. ``umask`` -1 is the parent's. Raises ``OSError``."""
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[Any] = self._loop.create_future()
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, umask=umask)
        try:
            # No thread of a pool: the parent may end before the child.
            threading.Thread(target=self._watch, name="child-watcher", daemon=True).start()
        except RuntimeError:  # too many threads; nobody would know of this process
            self.process.kill()
            self.process.wait()
            raise

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    async def ended(self) -> str:
        """Wait until the process has ended; returns a description of how."""
        return ending(await asyncio.shield(self._exited))

    async def wait_until_ready(self, listener: NotifyListener, timeout: float) -> None:
        """Wait until it says so to ``listener``, for at most ``timeout`` seconds.

        Raises ``RuntimeError`` if it ends before, or takes longer, with what it said last.
        """
        ready: asyncio.Future[Any] = self._loop.create_future()

        def read() -> None:
            listener.read()
            if "READY" in listener.state and not ready.done():
                ready.set_result(None)

        self._loop.add_reader(listener.fileno(), read)
        try:
            await asyncio.wait({ready, self._exited}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_reader(listener.fileno())
        if ready.done():
            return
        listener.read()
        said = listener.state.get("STATUS", "its last lines in the log say why")
        if self._exited.done():
            raise RuntimeError(f"it {ending(self._exited.result())}: {said}")
        raise RuntimeError(f"it did not say within {timeout:g} seconds that it is ready: {said}")

    async def end(self, patience: float) -> bool:
        """End it: in order (SIGTERM), and by force if it takes longer than ``patience`` seconds.

        Tells whether force was needed. On any event loop: a parent may clean up on another one.
        """
        if not self.runs:
            return False
        self.process.terminate()
        await self._wait(patience)
        if not self.runs:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads its session, and a group
        await self._wait(_KILL_TIMEOUT)
        return True

    async def _wait(self, timeout: float) -> None:
        gives_up = monotonic() + timeout
        while self.runs and monotonic() < gives_up:
            await asyncio.sleep(_LOOK_INTERVAL)

    def _watch(self) -> None:
        self.process.wait()
        with contextlib.suppress(RuntimeError):  # the parent's loop has ended before
            self._loop.call_soon_threadsafe(self._note_end)

    def _note_end(self) -> None:
        if not self._exited.done():
            self._exited.set_result(self.process.returncode)
