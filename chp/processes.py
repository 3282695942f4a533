"""What can be said about another process."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

# What a proxy is called, ours and the one on Node; and what may run it.
_NAMES = frozenset({"chp", "configurable-http-proxy"})
_INTERPRETERS = ("python", "pypy", "node")

_PROC = Path("/proc")  # Linux; elsewhere ps is asked


def is_proxy(pid: int) -> bool:
    """Tell whether this process runs, and is a proxy: neither a zombie nor a stranger with an old number."""
    state, command = _state_and_command(pid)
    if not command or state in "ZX":
        return False
    program = os.path.basename(command[0])
    if program.startswith(_INTERPRETERS):
        scripts = command[command.index("-m") + 1 :] if "-m" in command else command[1:]
        program = next((os.path.basename(script) for script in scripts if not script.startswith("-")), "")
    return program in _NAMES


def ending(status: int) -> str:
    """Describe the end of a process by its exit status, negative for a signal: ``was killed by SIGKILL``."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _state_and_command(pid: int) -> tuple[str, list[str]]:
    """Return the letter of a process's state and its command line; nothing if there is none."""
    proc = _PROC / str(pid)
    try:
        # The name in parentheses may itself have some.
        state = (proc / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        command = (proc / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        return state, command
    except OSError:
        if (_PROC / "self").exists():
            return "", []
    columns = ["ps", "-ww", "-o", "state=", "-o", "command=", "-p", str(pid)]
    try:
        shown = subprocess.run(columns, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return "", []
    words = shown.stdout.split()
    return (words[0][0], words[1:]) if words else ("", [])
