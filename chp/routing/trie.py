"""Longest-prefix lookup on whole path segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")


class _Node(Generic[V]):
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.value: V | None = None

    @property
    def empty(self) -> bool:
        return self.value is None and not self.children


class Trie(Generic[V]):
    """A map from sequences of segments to values; ``None`` is no value.

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
            child = node.children.get(segment)
            if child is None:
                return best
            node = child
            if node.value is not None:
                best = node.value
        return best

    def get(self, segments: Iterable[str]) -> V | None:
        """Return the value of exactly this key."""
        node = self._root
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                return None
            node = child
        return node.value

    def set(self, segments: Sequence[str], value: V) -> None:
        node = self._root
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                child = node.children[segment] = _Node()
            node = child
        node.value = value
        self.depth = max(self.depth, len(segments))

    def remove(self, segments: Sequence[str]) -> None:
        """Take a key away, and the nodes that only it needed; an unknown key is no error."""
        node = self._root
        parents: list[tuple[_Node[V], str]] = []
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                return
            parents.append((node, segment))
            node = child
        node.value = None
        while parents and node.empty:
            node, segment = parents.pop()
            del node.children[segment]
