from __future__ import annotations

import random

from chp.routing.trie import Trie


def trie_of(*keys: str) -> Trie[str]:
    trie: Trie[str] = Trie()
    for key in keys:
        trie.set(key.split("/"), key)
    return trie


def test_longest_prefix_of_whole_segments() -> None:
    trie = trie_of("a", "a/b", "a/b/c/d")
    assert trie.find(["a", "b", "c"]) == "a/b"
    assert trie.find(["a", "b", "c", "d", "e"]) == "a/b/c/d"
    assert trie.find(["a", "bb"]) == "a"
    assert trie.find(["aa"]) is None
    assert trie.find([]) is None


def test_the_empty_key_matches_everything() -> None:
    trie = trie_of("a")
    trie.set([], "root")
    assert trie.find(["x"]) == "root"
    assert trie.find([]) == "root"
    assert trie.get([]) == "root"
    assert trie.find(["a"]) == "a"


def test_get_is_exact() -> None:
    trie = trie_of("a/b")
    assert trie.get(["a", "b"]) == "a/b"
    assert trie.get(["a"]) is None
    assert trie.get(["a", "b", "c"]) is None


def test_removing_leaves_children_and_parents() -> None:
    trie = trie_of("a", "a/b", "a/b/c")
    trie.remove(["a", "b"])
    assert trie.find(["a", "b"]) == "a"
    assert trie.find(["a", "b", "c"]) == "a/b/c"
    trie.remove(["a", "b", "c"])
    assert trie.find(["a", "b", "c"]) == "a"


def test_removing_frees_the_nodes() -> None:
    trie = trie_of("a/b/c", "a/x")
    trie.remove(["a", "b", "c"])
    assert list(trie._root.below["a"].below) == ["x"]
    trie.remove(["a", "x"])
    assert trie._root.below == {}


def test_removing_the_unknown_changes_nothing() -> None:
    trie = trie_of("a/b")
    trie.remove(["a"])
    trie.remove(["a", "b", "c"])
    trie.remove([])
    assert trie.get(["a", "b"]) == "a/b"


def test_equals_brute_force() -> None:
    chance = random.Random(4711)

    def key() -> tuple[str, ...]:
        return tuple(chance.choice(["", "a", "b", "ab"]) for _ in range(chance.randrange(6)))

    trie: Trie[tuple[str, ...]] = Trie()
    expected: set[tuple[str, ...]] = set()
    found = 0
    for _ in range(5000):
        changed = key()
        if chance.random() < 0.5:
            trie.set(changed, changed)
            expected.add(changed)
        else:
            trie.remove(changed)
            expected.discard(changed)
        wanted = key()
        prefixes = [wanted[:length] for length in range(len(wanted), -1, -1)]
        best = next((prefix for prefix in prefixes if prefix in expected), None)
        assert trie.find(wanted) == best
        assert trie.get(wanted) == (wanted if wanted in expected else None)
        found += best is not None
    assert found > 1000
    for left in list(expected):
        trie.remove(left)
    assert trie._root.below == {}
