"""Log lines that come again and again: the first at once, then how many more there were."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from time import monotonic
from typing import Protocol

# Seconds between two lines of one kind.
INTERVAL = 60.0
# Kinds of lines that are told apart; what is beyond counts as one more.
_MAX_KINDS = 1000
_OTHERS = object()


class Watch(Protocol):
    """What is needed of the ticker."""

    def watch(self, item: RepeatedLines) -> None: ...

    def forget(self, item: RepeatedLines) -> None: ...


class _Kind:
    __slots__ = ("count", "deadline", "level", "line")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.count = 0  # lines that were not written
        self.level = logging.NOTSET  # of the last of them
        self.line = ""


class RepeatedLines:
    """Writes the first line of a kind, and then one each minute that says how often it was repeated.

    A target that does not answer is asked by every open browser tab; its lines differ in their path only.
    """

    def __init__(self, log: logging.Logger, ticker: Watch) -> None:
        self.deadline = float("inf")
        self._log = log
        self._ticker = ticker
        self._kinds: dict[Hashable, _Kind] = {}

    def write(self, level: int, kind: Hashable, line: str) -> None:
        """Write a line, or count it if one of this kind was written not long ago."""
        if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            kind = _OTHERS
        known = self._kinds.get(kind)
        if known is not None:
            known.count += 1
            known.level, known.line = level, line
            return
        self._log.log(level, "%s", line)
        self._kinds[kind] = _Kind(monotonic() + INTERVAL)
        self._set_deadline()
        self._ticker.watch(self)

    def deadline_passed(self) -> None:
        now = monotonic()
        for kind, known in list(self._kinds.items()):
            if known.deadline > now:
                continue
            if known.count:
                self._say(kind, known)
                known.count = 0
                known.deadline = now + INTERVAL
            else:
                del self._kinds[kind]
        self._set_deadline()
        if not self._kinds:
            self._ticker.forget(self)

    def close(self) -> None:
        """Write what was counted, and forget it."""
        for kind, known in self._kinds.items():
            if known.count:
                self._say(kind, known)
        self._kinds.clear()
        self._ticker.forget(self)

    def _say(self, kind: Hashable, known: _Kind) -> None:
        more = "and more like it" if kind is _OTHERS else "repeated"
        times = "once" if known.count == 1 else f"{known.count:,} times"
        self._log.log(known.level, "%s: %s %s", known.line, more, times)

    def _set_deadline(self) -> None:
        self.deadline = min((known.deadline for known in self._kinds.values()), default=float("inf"))
