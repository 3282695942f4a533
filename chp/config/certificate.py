"""When a certificate ends, and whether its files have changed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from datetime import datetime, timezone

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

# Tags of DER (X.690), and where the fields of a certificate are (RFC 5280, section 4.1).
_SEQUENCE, _VERSION = 0x30, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18

# Per file: its path without symbolic links, device, inode, time of change in nanoseconds, size.
Stamp = tuple[tuple[str, int, int, int, int], ...]


def stamp(paths: Iterable[str]) -> Stamp:
    """Return what tells these files from later ones with the same names.

    Kubernetes replaces a directory behind a symbolic link; others rename a new file over the old
    one, or write into it. A file that is missing is different from any that is there.
    """
    return tuple(_stamp(path) for path in paths)


def _stamp(path: str) -> tuple[str, int, int, int, int]:
    try:
        real = os.path.realpath(path)
        status = os.stat(real)
    except (OSError, ValueError):
        return path, 0, 0, 0, 0
    return real, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def valid_until(pem: str) -> datetime:
    """Return when the first certificate of a PEM file ends. Raises ``ValueError``.

    The standard library tells this of a peer's certificate only.
    """
    _, begin, rest = pem.partition(_BEGIN)
    der = ssl.PEM_cert_to_DER_cert(begin + rest.partition(_END)[0] + _END + "\n")
    try:
        tag, certificate, _ = _element(der)
        _, signed, _ = _element(certificate)
        fields = []
        while signed:
            tag, value, signed = _element(signed)
            if tag != _VERSION:  # it is optional
                fields.append((tag, value))
        tag, validity = fields[3]  # after serial number, algorithm and issuer
        if tag != _SEQUENCE:
            raise ValueError("no validity")
        tag, value, _ = _element(_element(validity)[2])
    except IndexError:
        raise ValueError("the certificate is cut off") from None
    return _time(tag, value.decode("ascii"))


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Take the first element off: its tag, its content, and what follows it."""
    length, begin = data[1], 2
    if length & 0x80:  # the length of the length
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin], "big")
    if begin + length > len(data):
        raise IndexError
    return data[0], data[begin : begin + length], data[begin + length :]


def _time(tag: int, text: str) -> datetime:
    """Read one of the two forms of RFC 5280, section 4.1.2.5."""
    if tag == _UTC_TIME:
        text = ("20" if text[:2] < "50" else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
