"""The process's limit of open files: each proxied connection takes two of them."""

from __future__ import annotations

import contextlib
import logging
import resource

# What is no connection: listeners, log, event loop, files that are read, connections of the API.
_RESERVE = 64


def raise_limit(log: logging.Logger) -> None:
    """Raise the soft limit to the hard one, which is the operator's. Does nothing where that is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    # Some systems have a lower limit of their own below an infinite one.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.info("Raised the limit of open files from %d to %d", soft, hard)


def connections() -> int:
    """Return how many connections can be proxied with the soft limit; 0: any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else max((soft - _RESERVE) // 2, 1)
