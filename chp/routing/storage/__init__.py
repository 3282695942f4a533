"""Route stores, and how one is chosen by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from chp.errors import StorageError
from chp.routing.storage.base import RouteStore
from chp.routing.storage.memory import MemoryStore

__all__ = ["MemoryStore", "RouteStore", "load_store"]

_NO_CONFIG: Mapping[str, Any] = MappingProxyType({})


def load_store(name: str, config: Mapping[str, Any] = _NO_CONFIG) -> RouteStore:
    """Make the store of this name: "memory" (or nothing), or ``package.module.Class``.

    ``config`` is the class's section of the configuration. Raises :class:`StorageError`, with one
    line for the operator.
    """
    if name in ("", "memory"):
        return MemoryStore(config)
    module_name, _, class_name = name.rpartition(".")
    if not module_name:
        raise StorageError(f"Storage backend {name!r}: must be 'memory' or 'package.module.Class'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise StorageError(f"Storage backend {name!r}: can't import {module_name}: {_line(error)}") from error
    store_class = getattr(module, class_name, None)
    if store_class is None:
        raise StorageError(f"Storage backend {name!r}: no {class_name} in {module_name}")
    if not (isinstance(store_class, type) and issubclass(store_class, RouteStore)):
        raise StorageError(f"Storage backend {name!r}: no subclass of {RouteStore.__module__}.RouteStore")
    if inspect.isabstract(store_class):
        missing = ", ".join(sorted(store_class.__abstractmethods__))
        raise StorageError(f"Storage backend {name!r}: methods are missing: {missing}")
    try:
        return store_class(config)
    except Exception as error:
        raise StorageError(f"Storage backend {name!r}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
