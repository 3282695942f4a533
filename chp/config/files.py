"""Reading the files that options name."""

from __future__ import annotations

from pathlib import Path

from chp.errors import ConfigError


def read_text(option: str, path: str) -> str:
    """Return the content of the file; raises :class:`ConfigError`, which names the option and the file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"{option}: can't read {path}: {reason}") from None
