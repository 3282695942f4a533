"""Options: the process itself."""

from __future__ import annotations

import logging
from typing import Any

from traitlets import Bool, Enum, HasTraits, TraitError, TraitType, Unicode

LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class LogLevel(TraitType[int, Any]):
    """A level of ``logging``, by name in any case or by number."""

    default_value = logging.INFO
    info_text = "debug, info, warn or error"

    def validate(self, obj: Any, value: Any) -> int:
        level = value
        if isinstance(value, str):
            level = LOG_LEVELS.get(value.lower(), int(value) if value.isdecimal() else None)
        if isinstance(level, int) and 0 <= level <= logging.CRITICAL:
            return level
        raise TraitError(f"log_level: {value!r} is not one of debug, info, warn, error")

    def default_value_repr(self) -> str:
        return "'info'"


class ProcessOptions(HasTraits):
    """Process"""

    log_level = LogLevel(
        help="""
        How much to log: debug, info, warn or error.

        info says which routes come and go, warn what needs attention, error what failed.
        """,
    ).tag(config=True, live=True, metavar="LEVEL")

    log_json = Bool(
        False,
        help="""
        Write the log as JSON, an object on each line: ``time``, ``level``, ``logger``, ``message``.

        ``exception`` is there too where there was one. An error that keeps the proxy from
        starting stays a plain line.
        """,
    ).tag(config=True, live=True)

    pid_file = Unicode(
        "",
        help="""
        Write the process id to this file.

        It is written when the servers listen, and removed at exit.
        """,
    ).tag(config=True, metavar="FILE")

    event_loop = Enum(
        ["auto", "uvloop", "asyncio"],
        "auto",
        help="""
        The event loop: uvloop, asyncio, or auto for uvloop where it is installed.

        uvloop makes the proxy faster; ``pip install 'jupyterhub-chp[speed]'`` installs it.
        """,
    ).tag(config=True, metavar="NAME")

    access_log = Unicode(
        "",
        help="""
        Write a line for each request to this file, or to standard output (``-``); by default there is none.

        It is written when the request is over, WebSockets included: client, method, path, status,
        bytes, route, target, duration, why it ended. Queries, and all headers but ``User-Agent``,
        are left out. A thread of its own writes, several lines at once; if the disk is that slow that
        4 MiB wait, lines are dropped, and the log says how many.
        """,
    ).tag(config=True, metavar="FILE")

    access_log_format = Enum(
        ["text", "json"],
        "text",
        help="""
        How the access log looks: text, which is the Combined Log Format and more, or json.

        json is an object for each line.
        """,
    ).tag(config=True, metavar="FORMAT")
