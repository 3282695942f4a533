"""What clients send to the REST API, read strictly: a posted route, and a date."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timezone
from typing import Any

from chp.errors import BadRequest

# Nested deeper than anybody's route data, and far from what the encoder
# can't take when the route is shown.
MAX_DEPTH = 100
# Of one request: more would keep the event loop for longer than others should wait.
MAX_CHANGES = 2000
# Of one request, in lists and objects: 20 for each of so many routes. Parsing and freeing millions takes
# a second, in which nobody is served.
MAX_VALUES = 20 * MAX_CHANGES
# Characters; the path of a request to the API has about as many.
MAX_PATH_LENGTH = 8192

_SURROGATE = re.compile("[\ud800-\udfff]")
# ECMAScript's date-time format, a profile of ISO 8601.
_DATE = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2}))?)?"
    r"(?P<time>[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?P<fraction>[.,][0-9]+)?)?"
    r"(?P<zone>[Zz]|[+-][0-9]{2}:?[0-9]{2})?)?"
)


def parse_route_data(body: bytes) -> dict[str, object]:
    """Parse a posted route: a JSON object (RFC 8259) with the string ``target``.

    Raises :class:`BadRequest` with CHP's texts.
    """
    data: dict[str, object] = _parse_json(body)
    if not _is_route(data):
        raise BadRequest("Must specify 'target' as string")
    return data


def parse_changes(body: bytes) -> dict[str, dict[str, object] | None]:
    """Parse many changes: a JSON object with paths as names, and routes, or null for none, as values.

    Raises :class:`BadRequest`.
    """
    changes: dict[str, dict[str, object] | None] = _parse_json(body)
    if not isinstance(changes, dict):
        raise BadRequest("Must be an object with the paths of routes as names")
    if len(changes) > MAX_CHANGES:
        raise BadRequest(f"Too many changes: at most {MAX_CHANGES} in one request", 413)
    for path, data in changes.items():
        if len(path) > MAX_PATH_LENGTH:
            raise BadRequest("Invalid path: too long")
        if _SURROGATE.search(path):
            raise BadRequest("Invalid path: not UTF-8")
        if data is not None and not _is_route(data):
            raise BadRequest(f"{path}: Must specify 'target' as string")
    return changes


def parse_date(text: str) -> float:
    """Return the seconds since the epoch of an ISO 8601 date.

    As in CHP, a date is one of UTC, and a time without zone is local time.
    Raises :class:`ValueError`.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError("not ISO 8601")
    moment = datetime(
        int(match["year"]),
        int(match["month"] or 1),
        int(match["day"] or 1),
        int(match["hour"] or 0),
        int(match["minute"] or 0),
        int(match["second"] or 0),
    )
    zone = match["zone"]
    try:
        if match["time"] and not zone:
            seconds = moment.timestamp()
        else:
            seconds = moment.replace(tzinfo=timezone.utc).timestamp()
    except (OverflowError, OSError):
        raise ValueError("out of range") from None
    if match["fraction"]:
        seconds += float("0." + match["fraction"][1:])
    if zone and zone not in "Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
        seconds += offset if zone[0] == "-" else -offset
    return seconds


def _parse_json(body: bytes) -> Any:
    # Each is preceded by one of these. What is in strings counts too, and is seldom so much.
    if sum(body.count(mark) for mark in b"[{,") > MAX_VALUES:
        raise BadRequest(f"Too many values: at most {MAX_VALUES} in one request", 413)
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
        _check_depth(data)
    except UnicodeDecodeError:
        raise BadRequest("Body not valid JSON: not UTF-8") from None
    except RecursionError:
        raise BadRequest("Body not valid JSON: nested too deeply") from None
    except ValueError as error:  # json.JSONDecodeError is one
        raise BadRequest(f"Body not valid JSON: {error}") from None
    return data


def _is_route(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("target"), str)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def _check_depth(value: object) -> None:
    """Refuse what could be parsed here, but not be written again deeper in the stack."""
    level: list[Any] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError("nested too deeply")
