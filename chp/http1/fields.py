"""Field lines: a field is a ``(name, value)`` pair of bytes, as received, without outer white space."""

from __future__ import annotations

import re
from collections.abc import Iterable

Field = tuple[bytes, bytes]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 3986, section 3.2.2: reg-name with escapes, IPv4, or an IP literal, and a port.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-fv:.%]+\])(?::[0-9]*)?")


def is_token(name: bytes) -> bool:
    """Tell whether this may be a field name (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


def is_valid_host(host: bytes) -> bool:
    """Tell whether this may be the value of Host (RFC 9112, section 3.2); it may be empty."""
    return _HOST.fullmatch(host) is not None


def connection_options(value: bytes, known: set[bytes] | None = None) -> set[bytes]:
    """Return the options of a Connection field in lower case, with those already known."""
    options = set() if known is None else known
    for option in value.lower().split(b","):
        option = option.strip(b" \t")
        if option:
            options.add(option)
    return options


def serialise(start_line: bytes, fields: Iterable[Field]) -> bytes:
    """Write a head: start line (without CRLF), field lines, empty line."""
    lines = [start_line]
    lines += [b": ".join(field) for field in fields]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def replace_fields(fields: list[Field], replacements: tuple[Field, ...]) -> list[Field]:
    """Drop every field that ``replacements`` names, and append those."""
    names = {name.lower() for name, _ in replacements}
    kept = [field for field in fields if field[0].lower() not in names]
    kept.extend(replacements)
    return kept
