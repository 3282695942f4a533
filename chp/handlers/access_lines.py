"""A line of the access log: what it has of a request, as text and as JSON.

Nothing of a query, and no field of the request but User-Agent: tokens and cookies can't get here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import gmtime, strftime

from chp.http1.head import RequestHead
from chp.http1.target import Target
from chp.routing.route import Route, format_time

# What could end a line or a quoted word, or speak to a terminal.
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")
_DELETE = "\x7f"  # all else is escaped in JSON
# json.dumps() would make one for each line, which is a fifth of its time.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_USER_AGENT = re.compile(rb"\r\nuser-agent:[ \t]*([^\r]*)", re.IGNORECASE)
# Bytes of one value that are shown, as many as HAProxy shows of a URI; escaped, a byte may take eight.
_MAX_SHOWN = 1024
_ABSOLUTE_FORM = re.compile(rb"[^:/?#]*://[^/?#]*(/[^?#]*)?")


@dataclass(slots=True)
class Record:
    """One request, at its end."""

    time: float  # when it began, in seconds since the epoch
    client: str = ""  # IP address; empty on a unix socket
    method: str = ""
    path: str = ""
    protocol: str = ""
    user_agent: str = ""
    route: str = ""  # its path in the route table; empty: there was none
    target: str = ""
    status: int = 0  # 0: there was no response
    received: int = 0  # bytes of content that went to the target
    sent: int = 0  # bytes of content that went to the client
    seconds: float = 0.0
    first_byte: float | None = None  # seconds until the response began
    end: str = ""
    request_id: str = ""

    def take_head(self, head: RequestHead) -> None:
        """Note what the request's head says."""
        self.method = head.method.decode("latin-1")
        self.path = cut(path_of(head.target).decode("latin-1"))
        self.protocol = "HTTP/1.0" if head.http10 else "HTTP/1.1"
        agent = _USER_AGENT.search(head.block)
        self.user_agent = cut(agent[1].strip().decode("latin-1")) if agent else ""

    def take_route(self, route: Route) -> None:
        """Note where the request goes."""
        self.route = cut(route.path)
        self.target = cut(target_of(route.target))


def cut(text: str) -> str:
    """Return a value for a line: of a long one its beginning, and how many characters are left out."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...[+{len(text) - _MAX_SHOWN}]"


def path_of(target: bytes) -> bytes:
    """Return the path of a request-target: no query, no fragment, no authority of an absolute form."""
    if target[:1] != b"/" and target != b"*":
        match = _ABSOLUTE_FORM.match(target)
        return (match[1] or b"/") if match else b""
    return re.split(rb"[?#]", target, maxsplit=1)[0]


def target_of(target: Target) -> str:
    """Return a route's target for the log: without its query."""
    path = "" if target.base_path == b"/" else target.base_path.decode()
    return f"{target.origin}{path}"


def text_line(record: Record) -> bytes:
    """Write the Combined Log Format, without a referrer (it has a query), and more words behind it."""
    client = record.client or "unix:"
    when = strftime("%d/%b/%Y:%H:%M:%S +0000", gmtime(record.time))
    request = _safe(" ".join(part for part in (record.method, record.path, record.protocol) if part))
    first_byte = "-" if record.first_byte is None else f"{record.first_byte:.6f}"
    line = (
        f'{_safe(client)} - - [{when}] "{request or "-"}" {record.status:03d} {record.sent} "-" '
        f'"{_safe(record.user_agent) or "-"}" route="{_safe(record.route) or "-"}" '
        f'target="{_safe(record.target) or "-"}" received={record.received} seconds={record.seconds:.6f} '
        f"first_byte={first_byte} end={record.end} request_id={_safe(record.request_id) or '-'}\n"
    )
    return line.encode("ascii")


def json_line(record: Record) -> bytes:
    """Write a JSON object; what there was not is null."""
    shown = {
        "time": format_time(record.time),
        "client": record.client or "unix:",
        "method": record.method or None,
        "path": record.path or None,
        "protocol": record.protocol or None,
        "user_agent": record.user_agent or None,
        "route": record.route or None,
        "target": record.target or None,
        "status": record.status or None,
        "bytes_received": record.received,
        "bytes_sent": record.sent,
        "seconds": round(record.seconds, 6),
        "first_byte": None if record.first_byte is None else round(record.first_byte, 6),
        "end": record.end,
        "request_id": record.request_id or None,
    }
    line = _encode(shown) + "\n"
    return (line.replace(_DELETE, r"\u007f") if _DELETE in line else line).encode("ascii")


FORMATS: dict[str, Callable[[Record], bytes]] = {"text": text_line, "json": json_line}


def _safe(text: str) -> str:
    return _UNSAFE.sub(
        lambda match: "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "replace")), text
    )
