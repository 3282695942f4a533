"""How log lines look: CHP's format, coloured on a terminal, or JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import time

FORMAT = "%(asctime)s.%(msecs)03dZ [ConfigProxy] %(levelname)s: %(message)s"
DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"

# CHP's words for the levels, and its colours.
_NAMES = {
    logging.DEBUG: ("debug", 34),
    logging.INFO: ("info", 32),
    logging.WARNING: ("warn", 33),
    logging.ERROR: ("error", 31),
    logging.CRITICAL: ("critical", 31),
}
# A request must not be able to write a log line of its own, or to a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09}


class Formatter(logging.Formatter):
    """CHP's times (UTC) and words, colours only on a terminal, no control characters in messages."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        name, colour = _NAMES.get(record.levelno, (record.levelname.lower(), 0))
        shown = logging.makeLogRecord(record.__dict__)
        shown.levelname = f"\x1b[{colour}m{name}\x1b[39m" if colour and _on_terminal() else name
        shown.message = record.message.translate(_CONTROLS)
        return super().formatMessage(shown)


class JSONFormatter(logging.Formatter):
    """An object of JSON on each line, whatever the message and the traceback hold: for log collectors."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{self.formatTime(record, DATE_FORMAT)}.{int(record.msecs):03d}Z",
            "level": _NAMES.get(record.levelno, (record.levelname.lower(), 0))[0],
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_logger_level(log: logging.Logger) -> None:
    """Let the logger take what its handlers show.

    traitlets lets it take everything: that would make a record of each debug line, which costs
    half as much as a request.
    """
    shown = min((handler.level for handler in log.handlers), default=logging.WARNING)
    log.setLevel(max(logging.DEBUG, shown))


def _on_terminal() -> bool:
    return not os.environ.get("NO_COLOR") and sys.stderr.isatty()


def adopt_library_loggers(log: logging.Logger) -> None:
    """Send what Tornado and asyncio log to the handlers of ``log``.

    Only for a process that is all ours: an application that embeds the proxy has its own idea of it.
    """
    for name in ("tornado", "asyncio"):
        library = logging.getLogger(name)
        library.handlers = list(log.handlers)
        library.propagate = False
        # Below a warning, Tornado shows what clients sent, header values included.
        library.setLevel(logging.WARNING)
    # The API logs its requests itself, without their queries.
    access = logging.getLogger("tornado.access")
    access.handlers = [logging.NullHandler()]
    access.propagate = False
