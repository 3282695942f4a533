from __future__ import annotations

from pathlib import Path

import pytest

from chp.errors import StorageError
from chp.routing.storage import MemoryStore, load_store

GOOD = """
from chp.routing.storage import MemoryStore, RouteStore

class Good(MemoryStore):
    pass

class Abstract(RouteStore):
    async def load(self):
        return {}

class Foreign:
    pass

class Broken(MemoryStore):
    def __init__(self, config):
        raise OSError("no such\\nplace")

number = 5
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "chp_test_stores"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text(GOOD)
    (package / "bad.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["", "memory"])
def test_memory(name: str) -> None:
    assert type(load_store(name)) is MemoryStore


async def test_memory_keeps_nothing() -> None:
    store = load_store("memory")
    await store.add("/a", {"target": "http://h"})
    await store.update("/a", {})
    assert await store.load() == {}
    await store.remove("/a")
    await store.close()


def test_by_name_with_configuration() -> None:
    config = {"url": "x"}
    store = load_store("chp_test_stores.good.Good", config)
    assert type(store).__name__ == "Good"
    assert store.config is config


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("redis", "must be 'memory' or 'package.module.Class'"),
        (".Store", "must be 'memory' or 'package.module.Class'"),
        ("..x.Store", "can't import ..x"),
        ("no_such_module.Store", "can't import no_such_module: No module named 'no_such_module'"),
        ("chp_test_stores.bad.Store", "can't import chp_test_stores.bad: division by zero"),
        ("chp_test_stores.good.Missing", "no Missing in chp_test_stores.good"),
        ("chp_test_stores.good.number", "no subclass of chp.routing.storage.base.RouteStore"),
        ("chp_test_stores.good.Foreign", "no subclass of chp.routing.storage.base.RouteStore"),
        ("chp_test_stores.good.Abstract", "methods are missing: add, close, remove, update"),
        ("chp_test_stores.good.Broken", "no such place"),
    ],
)
def test_errors_are_one_line(name: str, text: str) -> None:
    with pytest.raises(StorageError) as caught:
        load_store(name)
    assert str(caught.value).startswith(f"Storage backend {name!r}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
