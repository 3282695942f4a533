"""How a route store is chosen: by the scheme of its URL, by name, or as a Python class."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from chp.errors import StorageError, one_line
from chp.routing.storage.base import RouteStore, SharedStore
from chp.routing.storage.memory import MemoryStore
from chp.routing.storage.solo import SYNCHRONOUS_METHODS, SynchronousStore

# By name: the class, and the schemes of URLs that mean it.
_STORES = {
    "sql": (
        "chp.routing.storage.sql.SQLStore",
        ("sqlite", "sqlite+aiosqlite", "postgresql", "postgresql+asyncpg", "postgres"),
    ),
    "redis": (
        "chp.routing.storage.redis_store.RedisStore",
        ("redis", "rediss", "valkey", "valkeys", "unix", "redis+sentinel", "rediss+sentinel"),
    ),
}
# What the optional packages are called in an import that fails.
_EXTRAS = {"redis": "redis", "sqlalchemy": "sql", "asyncpg": "sql", "aiosqlite": "sql", "greenlet": "sql"}

_NO_CONFIG: Mapping[str, Any] = MappingProxyType({})


def load_store(
    name: str = "", config: Mapping[str, Any] = _NO_CONFIG, *, url: str = ""
) -> RouteStore | SharedStore:
    """Make a store. Raises :class:`StorageError`, with one line for the operator.

    ``name`` is "memory", "sql", "redis", or ``package.module.Class``; empty,
    the scheme of ``url`` decides, and without one it is memory. ``config`` is
    the class's section of the configuration.
    """
    scheme = url.partition(":")[0].lower()
    by_scheme = [known for known, (_, schemes) in _STORES.items() if scheme in schemes]
    if url and name in ("", *_STORES) and not by_scheme:
        known = ", ".join(f"{one}://" for _, schemes in _STORES.values() for one in schemes)
        raise StorageError(f"--storage-url must begin with one of {known}")
    name = name or (by_scheme[0] if url else "memory")
    if name == "memory":
        if url:
            raise StorageError("--storage-url can't be used with --storage-backend memory. Pick one.")
        return MemoryStore(config)
    if name in _STORES:
        if name not in by_scheme:
            schemes = ", ".join(f"{one}://" for one in _STORES[name][1])
            raise StorageError(f"--storage-backend {name} needs a --storage-url with {schemes}")
        return _make(name, _STORES[name][0], {**config, "url": url})
    return _make(name, name, {**config, "url": url} if url else config)


def _make(name: str, path: str, config: Mapping[str, Any]) -> RouteStore | SharedStore:
    store_class = _find_class(name, path)
    try:
        if issubclass(store_class, (RouteStore, SharedStore)):
            return store_class(config)
        return SynchronousStore(store_class())
    except StorageError:
        raise
    except ImportError as error:
        raise _cannot_import(name, path, error) from error
    except Exception as error:
        raise StorageError(f"Storage backend {name!r}: {one_line(error) or type(error).__name__}") from error


def _find_class(name: str, path: str) -> type[Any]:
    module_name, _, class_name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        choices = ", ".join(repr(known) for known in ("memory", *_STORES))
        raise StorageError(
            f"Storage backend {name!r}: must be {choices} or a Python class, 'package.module.Class'"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise _cannot_import(name, module_name, error) from error
    store_class = getattr(module, class_name, None)
    if store_class is None:
        raise StorageError(f"Storage backend {name!r}: no {class_name} in {module_name}")
    if not isinstance(store_class, type) or not (
        issubclass(store_class, (RouteStore, SharedStore))
        or all(callable(getattr(store_class, method, None)) for method in SYNCHRONOUS_METHODS)
    ):
        raise StorageError(f"Storage backend {name!r}: no subclass of {RouteStore.__module__}.RouteStore")
    if inspect.isabstract(store_class):
        missing = ", ".join(sorted(getattr(store_class, "__abstractmethods__", ())))
        raise StorageError(f"Storage backend {name!r}: methods are missing: {missing}")
    return store_class


def _cannot_import(name: str, module_name: str, error: Exception) -> StorageError:
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if name in _STORES and package in _EXTRAS:
        extra = _EXTRAS[package]
        return StorageError(
            f"Storage backend {name!r}: {package} is not installed: pip install 'jupyterhub-chp[{extra}]'"
        )
    return StorageError(
        f"Storage backend {name!r}: can't import {module_name}: {one_line(error) or type(error).__name__}"
    )
