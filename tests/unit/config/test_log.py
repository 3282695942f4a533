"""chp/log.py: what a log line looks like."""

import json
import logging
import sys

from chp.log import (
    DATE_FORMAT,
    FORMAT,
    Formatter,
    JSONFormatter,
    adopt_library_loggers,
    set_logger_level,
)


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


def json_line(level, message, *args, exc_info=None):
    record = logging.LogRecord("ConfigurableProxy", level, __file__, 1, message, args, exc_info)
    record.created, record.msecs = 0.25, 250.0
    line = JSONFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_json():
    assert json_line(logging.WARNING, "Route %s", 'a"\n\x1b\udcff') == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warn",
        "logger": "ConfigurableProxy",
        "message": 'Route a"\n\x1b\udcff',
    }


def test_json_has_the_traceback_in_the_same_line():
    try:
        raise LookupError("no such user")
    except LookupError:
        shown = json_line(logging.ERROR, "failed", exc_info=sys.exc_info())
    assert shown["exception"].startswith("Traceback")
    assert shown["exception"].endswith("LookupError: no such user")


def test_the_logger_takes_what_its_handlers_show():
    log = logging.Logger("x")
    assert not log.handlers
    for level in (logging.ERROR, logging.INFO):
        handler = logging.NullHandler()
        handler.setLevel(level)
        log.addHandler(handler)
        set_logger_level(log)
        assert log.level == level
