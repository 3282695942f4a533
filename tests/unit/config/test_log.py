"""chp/log.py: what a log line looks like."""

import logging
import sys

from chp.log import DATE_FORMAT, FORMAT, Formatter, adopt_library_loggers


def line(level, message, *args):
    record = logging.LogRecord("ConfigurableProxy", level, __file__, 1, message, args, None)
    record.created, record.msecs = 0.25, 250.0
    return Formatter(FORMAT, DATE_FORMAT).format(record)


def test_format():
    shown = line(logging.INFO, "Adding route %s -> %s", "/a", "http://b")
    assert shown == "1970-01-01T00:00:00.250Z [ConfigProxy] info: Adding route /a -> http://b"
    assert " warn: x" in line(logging.WARNING, "x")
    assert " error: x" in line(logging.ERROR, "x")


def test_colours_only_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32minfo\x1b[39m: x" in line(logging.INFO, "x")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in line(logging.INFO, "x")


def test_a_message_is_one_line():
    assert line(logging.INFO, "%s", "a\nb\x1b[2J\x85").endswith("a\\x0ab\\x1b[2J\\x85")


def test_tornado_and_asyncio_use_our_handlers(log_lines):
    names = ("tornado", "asyncio", "tornado.access")
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in names}
    log = logging.Logger("x")
    log.addHandler(logging.NullHandler())
    try:
        adopt_library_loggers(log)
        assert logging.getLogger("tornado").handlers == log.handlers
        assert not logging.getLogger("tornado.general").isEnabledFor(logging.INFO)
        assert logging.getLogger("tornado.access").handlers != log.handlers
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers = handlers
            logging.getLogger(name).propagate = propagate
            logging.getLogger(name).setLevel(logging.NOTSET)
