"""What can be said about another process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# What a proxy is called, ours and the one on Node; and what may run it.
_NAMES = frozenset({"chp", "configurable-http-proxy"})
_INTERPRETERS = ("python", "pypy", "node")

_PROC = Path("/proc")  # Linux; elsewhere ps is asked
_STARTTIME = 22 - 3  # of proc(5), in the fields after the name


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs: no zombie."""

    command: list[str]
    age: float  # seconds since it began

    @property
    def is_proxy(self) -> bool:
        """Whether it is one by its name: ours, or the one on Node."""
        program = os.path.basename(self.command[0])
        if program.startswith(_INTERPRETERS):
            after = self.command.index("-m") + 1 if "-m" in self.command else 1
            scripts = (script for script in self.command[after:] if not script.startswith("-"))
            program = os.path.basename(next(scripts, ""))
        return program in _NAMES


def find_process(pid: int) -> Process | None:
    """Return what runs under this number, or None."""
    if not (_PROC / "self").exists():
        return _ask_ps(pid)
    try:
        # The name in parentheses may itself have some. What follows it begins with the third field.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        command = (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return None
    if fields[0] in "ZX" or not command[0]:
        return None
    started = int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
    return Process(command, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def ending(status: int) -> str:
    """Describe the end of a process by its exit status, negative for a signal: ``was killed by SIGKILL``."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _ask_ps(pid: int) -> Process | None:
    columns = ["ps", "-ww", "-o", "state=", "-o", "etime=", "-o", "command=", "-p", str(pid)]
    try:
        shown = subprocess.run(columns, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    state, age, *command = shown.stdout.split() or ("Z", "")
    if state[0] in "ZX" or not command:
        return None
    return Process(command, _seconds(age))


def _seconds(elapsed: str) -> float:
    """Read the time of ps: ``[[days-]hours:]minutes:seconds``."""
    days, _, clock = elapsed.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 86_400 + seconds
