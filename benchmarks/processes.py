"""Processes: started, waited for, measured and ended. Times and memory are those of the whole tree."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HOST = "127.0.0.1"
_END_TIMEOUT = 30.0  # seconds
_PORTS = range(10_000, 20_000)
_TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """The benchmark can't go on: something did not start, or an answer was wrong."""


class Process:
    """A running program, and whatever it started."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        output: int | None = None,
    ) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file if output is None else output,
                stderr=file,
                env={**os.environ, **(environment or {})},
                cwd=log.parent,
            )

    def cpu_seconds(self) -> float:
        """User and system time so far, with that of children that have ended (proc(5), stat, 14 to 17)."""
        ticks = 0
        for pid in self._tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / _TICKS

    def memory(self) -> int:
        """Resident memory now, in bytes."""
        status = (Path(f"/proc/{pid}/status").read_text() for pid in self._tree())
        return sum(int(found[1]) * 1024 for text in status if (found := re.search(r"VmRSS:\s+(\d+)", text)))

    def log(self) -> str:
        """Return the end of what it said."""
        return self._log.read_text(errors="replace")[-2000:]

    def end(self) -> None:
        for pid in reversed(self._tree()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait(_END_TIMEOUT)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _tree(self) -> list[int]:
        pids = [self.process.pid]
        for pid in pids:  # it grows
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids += map(int, (task / "children").read_text().split())
        return pids


class Meter:
    """The CPU time of a process, and the time that passed, inside a ``with``."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.cpu = self.seconds = 0.0

    def __enter__(self) -> None:
        self.cpu, self.seconds = -self._process.cpu_seconds(), -time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.cpu += self._process.cpu_seconds()
        self.seconds += time.perf_counter()


@contextlib.contextmanager
def ending(process: Process) -> Iterator[Process]:
    """See to it that a process ends."""
    try:
        yield process
    finally:
        process.end()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, of those that the system does not give away by itself."""
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise Failure("there are no free ports")
