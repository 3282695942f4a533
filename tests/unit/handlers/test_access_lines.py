"""chp/handlers/access_lines.py: what a line has, and what can't get into one."""

from __future__ import annotations

import json
import re

import pytest

from chp.handlers.access_lines import FORMATS, Record, json_line, path_of, target_of, text_line
from chp.http1.head import RequestHead
from chp.http1.target import Target
from chp.metrics import Metrics
from chp.routing.route import Route


def full_record() -> Record:
    record = Record(
        1795613822.25,
        client="192.0.2.1",
        route="/user/ada",
        target="http://127.0.0.1:9000",
        status=200,
        received=3,
        sent=1234,
        seconds=0.0123456,
        first_byte=0.01,
        end="complete",
        request_id="4711",
    )
    record.take_head(
        RequestHead.parse(
            b"GET /user/ada/tree?token=secret HTTP/1.1\r\nHost: h\r\nUser-Agent:  Mozilla/5.0 (X) \r\n"
            b"Authorization: token secret\r\nCookie: secret\r\nReferer: http://h/?secret\r\n\r\n"
        )
    )
    return record


def test_text() -> None:
    assert text_line(full_record()) == (
        b'192.0.2.1 - - [25/Nov/2026:13:37:02 +0000] "GET /user/ada/tree HTTP/1.1" 200 1234 "-" '
        b'"Mozilla/5.0 (X)" route="/user/ada" target="http://127.0.0.1:9000" received=3 seconds=0.012346 '
        b"first_byte=0.010000 end=complete request_id=4711\n"
    )


def test_json() -> None:
    assert json.loads(json_line(full_record())) == {
        "time": "2026-11-25T13:37:02.250Z",
        "client": "192.0.2.1",
        "method": "GET",
        "path": "/user/ada/tree",
        "protocol": "HTTP/1.1",
        "user_agent": "Mozilla/5.0 (X)",
        "route": "/user/ada",
        "target": "http://127.0.0.1:9000",
        "status": 200,
        "bytes_received": 3,
        "bytes_sent": 1234,
        "seconds": 0.012346,
        "first_byte": 0.01,
        "end": "complete",
        "request_id": "4711",
    }


def test_what_there_was_not() -> None:
    assert text_line(Record(0.0, end="bad_request")) == (
        b'unix: - - [01/Jan/1970:00:00:00 +0000] "-" 000 0 "-" "-" route="-" target="-" received=0 '
        b"seconds=0.000000 first_byte=- end=bad_request request_id=-\n"
    )
    shown = json.loads(json_line(Record(0.0, end="bad_request")))
    assert [key for key, value in shown.items() if value is None] == [
        *("method", "path", "protocol", "user_agent", "route", "target", "status", "first_byte", "request_id")
    ]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["path", "user_agent", "route", "target", "method", "client"])
def test_no_value_can_end_a_line_or_speak_to_a_terminal(kind: str, name: str) -> None:
    record = full_record()
    evil = '/x"\n\r\x1b[2J\x7f\x00\x85\\ \u2028 \udc80'
    setattr(record, name, evil)
    line = FORMATS[kind](record)
    assert re.fullmatch(rb"[\x20-\x7e]+\n", line)
    if kind == "json":
        assert json.loads(line)[{"path": "path"}.get(name, name)] == evil
    else:
        assert line.count(b'"') == 10


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("byte", [b"a", b"\xe9", b'"'])
def test_long_values_are_cut_and_say_so(kind: str, byte: bytes) -> None:
    record = full_record()
    path = b"/" + byte.replace(b'"', b"%22") * 16_000
    head = b"GET %b?token=secret HTTP/1.1\r\nHost: h\r\nUser-Agent: %b\r\n\r\n" % (path, byte * 64_000)
    record.take_head(RequestHead.parse(head))
    target = Target.parse("http://h/" + "t" * 5000)
    record.take_route(Route("/" + "r" * 5000, target, {}, last_activity=0, depth=1, metrics=Metrics()))
    line = FORMATS[kind](record)
    assert re.fullmatch(rb"[\x20-\x7e]+\n", line)
    assert len(line) < 20_000
    marks = (len(path) - 1024, 64_000 - 1024, 5001 - 1024, 5012 - 1024)
    for left_out in marks:
        assert b"...[+%d]" % left_out in line
    if kind == "json":
        shown = json.loads(line)
        assert shown["user_agent"] == byte.decode("latin-1") * 1024 + "...[+62976]"
        assert shown["path"][:1024] == path[:1024].decode("latin-1")
    else:
        assert line.count(b'"') == 10


def test_values_of_the_greatest_length_are_whole() -> None:
    agent = b"a" * 1024
    record = full_record()
    record.take_head(RequestHead.parse(b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: %b\r\n\r\n" % agent))
    assert json.loads(json_line(record))["user_agent"] == agent.decode()


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a/b?token=secret", b"/a/b"),
        (b"/a#secret", b"/a"),
        (b"/a?x#y?z", b"/a"),
        (b"/", b"/"),
        (b"*", b"*"),
        (b"http://user:secret@h/a?secret", b"/a"),
        (b"http://user:secret@h", b"/"),
        (b"http://h?secret", b"/"),
        (b"user:secret@h:443", b""),
        (b"?secret", b""),
        (b"", b""),
    ],
)
def test_path(target: bytes, path: bytes) -> None:
    assert path_of(target) == path


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("https://h/base/?token=secret#x", "https://h:443/base/"),
        ("http+unix://%2Frun%2Fs.sock/a?secret", "unix:/run/s.sock/a"),
    ],
)
def test_target(url: str, shown: str) -> None:
    assert target_of(Target.parse(url)) == shown
