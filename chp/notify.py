"""The protocol of sd_notify(3): a process tells who started it when it is ready, and why it ends.

systemd speaks it (``Type=notify``), and so does :class:`chp.jupyterhub.CHPProxy`.
"""

from __future__ import annotations

import contextlib
import os
import socket

_VARIABLE = "NOTIFY_SOCKET"
_MAX_MESSAGE = 4096  # bytes


def notify(**state: str) -> None:
    """Send ``READY="1"``, ``STATUS="..."`` or other variables, if somebody wants to know.

    Not for a program that embeds the proxy: it is the process that is ready.
    """
    address = os.environ.get(_VARIABLE, "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract names
        address = "\0" + address[1:]
    message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in state.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(message.encode("utf-8", "backslashreplace")[:_MAX_MESSAGE], address)


class NotifyListener:
    """The other end: a socket for one process that is about to be started."""

    def __init__(self, path: str) -> None:
        """Listen at this path of the file system. Raises ``OSError``."""
        self.environment = {_VARIABLE: path}
        self.state: dict[str, str] = {}  # what was said last
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(path)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when something was said."""
        return self._socket.fileno()

    def read(self) -> None:
        """Take in what was said since, if anything was."""
        while True:
            try:
                message = self._socket.recv(_MAX_MESSAGE)
            except BlockingIOError:
                return
            for line in message.decode("utf-8", "replace").split("\n"):
                name, _, value = line.partition("=")
                self.state[name] = value

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)
