"""A directory for sockets and settings that only this user can enter."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import socket
import stat
import tempfile

_PREFIX = "jupyterhub-proxy-"
# Bytes of a directory's path that leave room for sockets below it: sockaddr_un has 104 to 108.
_LONGEST_PARENT = 64


class PrivateDirectory:
    """Is made when it is first asked for, and again when a cleaner of /tmp has taken it away."""

    def __init__(self) -> None:
        self._path = ""
        self._lock = -1

    def path(self, name: str) -> str:
        """Return the path of a file in it, as the directory is now. Raises ``OSError``."""
        if not _is_own(self._path):
            self.remove()
            self._path = tempfile.mkdtemp(prefix=_PREFIX, dir=_parent())
            self._lock = os.open(self._path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        return os.path.join(self._path, name)

    def remove(self) -> None:
        """Remove it with all that is in it. No error if there is none."""
        if _is_own(self._path):
            shutil.rmtree(self._path, ignore_errors=True)
        self._path = ""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_left_behind() -> None:
    """Remove those of programs that were killed: neither locked by their owner, nor in use by a server."""
    for path in glob.glob(os.path.join(glob.escape(_parent()), _PREFIX + "*")):
        if _is_own(path):
            with contextlib.suppress(OSError):  # locked, or gone
                lock = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not any(_is_used(os.path.join(path, file)) for file in os.listdir(path)):
                        shutil.rmtree(path)
                finally:
                    os.close(lock)


def _parent() -> str:
    directory = tempfile.gettempdir()
    return directory if len(os.fsencode(directory)) <= _LONGEST_PARENT else "/tmp"


def _is_own(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_used(path: str) -> bool:
    """Tell whether this is a socket that somebody listens on."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) != errno.ECONNREFUSED
