from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from chp.errors import StorageError
from chp.routing.storage import MemoryStore, load_store
from chp.routing.storage.solo import SynchronousStore

GOOD = """
import threading
from datetime import datetime

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


class Synchronous:
    # As stores of another proxy in Python are.

    def __init__(self):
        moment = datetime(2026, 1, 31, 12)
        self.routes = {"user/ada/": {"target": "http://h", "last_activity": moment}}
        self.closed = False

    def get_target(self, path):
        raise NotImplementedError

    def get_all(self):
        return self.routes

    def add(self, path, data):
        assert threading.current_thread() is not threading.main_thread()
        self.routes[path] = data

    def update(self, path, data):
        self.routes[path].update(data)

    def remove(self, path):
        del self.routes[path]

    def close(self):
        self.closed = True
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
    assert isinstance(store, MemoryStore)
    await store.change({"/a": {"target": "http://h"}})
    await store.save_activities({"/a": "2026-01-31T12:00:00.000Z"})
    assert await store.load() == {}
    await store.close()


def test_by_name_with_configuration() -> None:
    config = {"url": "x"}
    store = load_store("chp_test_stores.good.Good", config)
    assert type(store).__name__ == "Good"
    assert store.config is config


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etcd", "must be 'memory', 'sql', 'redis' or a Python class, 'package.module.Class'"),
        (".Store", "must be 'memory', 'sql', 'redis' or a Python class, 'package.module.Class'"),
        ("./my-backend.js", "must be 'memory', 'sql', 'redis' or a Python class, 'package.module.Class'"),
        ("..x.Store", "must be 'memory', 'sql', 'redis' or a Python class"),
        ("no_such_module.Store", "can't import no_such_module: No module named 'no_such_module'"),
        ("chp_test_stores.bad.Store", "can't import chp_test_stores.bad: division by zero"),
        ("chp_test_stores.good.Missing", "no Missing in chp_test_stores.good"),
        ("chp_test_stores.good.number", "no subclass of chp.routing.storage.base.RouteStore"),
        ("chp_test_stores.good.Foreign", "no subclass of chp.routing.storage.base.RouteStore"),
        ("chp_test_stores.good.Abstract", "methods are missing: change"),
        ("chp_test_stores.good.Broken", "no such place"),
    ],
)
def test_errors_are_one_line(name: str, text: str) -> None:
    with pytest.raises(StorageError) as caught:
        load_store(name)
    assert str(caught.value).startswith(f"Storage backend {name!r}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_synchronous_stores_run_in_a_thread() -> None:
    store = load_store("chp_test_stores.good.Synchronous")
    assert isinstance(store, SynchronousStore)
    moment = "2026-01-31T12:00:00+00:00"
    assert await store.load() == {"/user/ada": {"target": "http://h", "last_activity": moment}}
    await store.change({"/a": {"target": "http://one"}, "/b": {"target": "http://two"}})
    await store.save_activities({"/a": "later", "/unknown": "never"})
    await store.change({"/b": None})
    assert (await store.load())["/a"] == {"target": "http://one", "last_activity": "later"}
    assert "/b" not in await store.load()
    await store.close()
    assert store._store.closed


@pytest.mark.parametrize(
    ("name", "url", "text"),
    [
        ("", "etcd://h", "--storage-url must begin with one of sqlite://, "),
        ("", "chp.sqlite", "--storage-url must begin with one of sqlite://, "),
        ("memory", "sqlite:///x", "--storage-url can't be used with --storage-backend memory. Pick one."),
        ("redis", "", "--storage-backend redis needs a --storage-url with redis://, "),
        ("sql", "redis://:secret@h", "--storage-backend sql needs a --storage-url with sqlite://, "),
    ],
)
def test_names_and_urls_have_to_agree(name: str, url: str, text: str) -> None:
    with pytest.raises(StorageError) as caught:
        load_store(name, url=url)
    assert str(caught.value).startswith(text)
    assert "secret" not in str(caught.value)


def test_classes_get_the_url() -> None:
    store = load_store("chp_test_stores.good.Good", {"x": 1}, url="my://h")
    assert store.config == {"x": 1, "url": "my://h"}


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [
        ("redis", "redis://h", "redis"),
        ("sqlalchemy", "sqlite:///x", "sql"),
        ("aiosqlite", "sqlite:///x", "sql"),
        ("asyncpg", "postgresql://h/x", "sql"),
    ],
)
def test_a_missing_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, package: str, url: str, extra: str
) -> None:
    for module in [*sys.modules]:
        if module.startswith(("chp.routing.storage.redis_", "chp.routing.storage.sql", f"{package}.")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StorageError) as caught:
        load_store(url=url)
    text = f"Storage backend {extra!r}: {package} is not installed: pip install 'jupyterhub-chp[{extra}]'"
    assert str(caught.value) == text


def test_sqlalchemy_without_greenlet_is_one_line() -> None:
    """As in the environment of a Hub, which needs SQLAlchemy and no greenlet."""
    program = (
        "import sys; sys.modules['greenlet'] = None; from chp.routing.storage import load_store;"
        " load_store(url='sqlite:///x')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    text = "Storage backend 'sql': greenlet is not installed: pip install 'jupyterhub-chp[sql]'"
    assert result.stderr.splitlines()[-1].endswith(text)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
        ("postgresql://ada:secret@h:port/x", "can't be used"),
        ("redis://:secret@h:port", "can't be used"),
        ("redis://:secret@h?socket_timeout=x", "can't be used"),
        ("redis://:secret@h?prefx=hub1", "there is no option 'prefx'"),
        ("redis+sentinel://:secret@h/routes?prefx=hub1", "there is no option 'prefx'"),
        ("postgresql://ada:secret@h/x?sll=require", "there is no option 'sll'"),
        ("sqlite:///x?mode=ro", "there is no option 'mode'"),
        ("redis+sentinel://:secret@h", "the path of a Sentinel URL is the name of the service"),
    ],
)
def test_unusable_urls_are_not_shown(url: str, text: str) -> None:
    with pytest.raises(StorageError) as caught:
        load_store(url=url)
    assert str(caught.value).startswith("--storage-url")
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
