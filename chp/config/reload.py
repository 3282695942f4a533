"""A new configuration for a proxy that runs.

Traits that are tagged ``live=True`` can change then. Everything else is part of what was built at
the start: addresses, routes, event loop.
"""

from __future__ import annotations

from typing import Any

from traitlets import Enum, Integer, TraitError, TraitType
from traitlets.config import Config, Configurable
from traitlets.config.loader import LazyConfigValue

from chp.config.options import Options
from chp.errors import ConfigError, shortened


def read(config: Config, configurable: type[Configurable]) -> Options:
    """Return the options that a configuration asks for. Raises :class:`ConfigError`.

    No instance of the application itself: a second one would take the log over.
    """
    options = Options()
    for name in configurable.section_names():
        for trait, value in config.get(name, {}).items():
            if not options.has_trait(trait):
                continue  # one of traitlets' own
            if isinstance(value, LazyConfigValue):  # c.ConfigurableProxy.custom_header.append(...)
                value = value.get_value(getattr(options, trait))  # noqa: PLW2901
            try:
                setattr(options, trait, value)
            except (TraitError, ValueError) as error:  # Python shows no number of more than 4,300 digits
                raise ConfigError(_complaint(options.traits()[trait], value, error)) from None
    return options


def _complaint(trait: TraitType[Any, Any], value: object, error: Exception) -> str:
    """Return what is wrong with a value, without traitlets' words about classes and instances."""
    if isinstance(error, TraitError) and f"'{trait.name}' trait of a" not in str(error):
        return str(error)  # one of our own
    if isinstance(trait, Integer):
        bounds = {"at least": trait.min, "at most": trait.max}
        limits = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        return f"{trait.name}: {_shown(value)} is not a whole number" + (f" of {limits}" if limits else "")
    if isinstance(trait, Enum):
        return (
            f"{trait.name}: {value!r} is not one of {', '.join(map(str, filter(None, trait.values or ())))}"
        )
    # Without the value, which may be a secret.
    return f"{trait.name}: the value has to be {trait.info()}, and is of the type {type(value).__name__}"


def _shown(value: object) -> str:
    try:
        return shortened(repr(value))
    except ValueError:
        return "a number of more than 4,300 digits"


def merge(running: Options, wanted: Options) -> tuple[Options, list[str], list[str]]:
    """Return the options to go on with, the names of those that change, and of those that can't."""
    names = Options.class_trait_names(config=True)
    live = Options.class_trait_names(config=True, live=True)
    differing = [name for name in names if getattr(running, name) != getattr(wanted, name)]
    switched = _switched_tls(running, wanted)
    fixed = sorted(name for name in differing if name not in live or name.startswith(switched))
    changed = sorted(set(differing) - set(fixed))
    values = {name: getattr(wanted if name in changed else running, name) for name in names}
    return Options(**values), changed, fixed


def _switched_tls(running: Options, wanted: Options) -> tuple[str, ...]:
    """Return the first part of the names of options that would begin or end TLS on a server that listens."""
    return tuple(
        prefix
        for prefix in ("ssl_", "api_ssl_")
        if _has_certificate(running, prefix) is not _has_certificate(wanted, prefix)
    )


def _has_certificate(options: Options, prefix: str) -> bool:
    return bool(getattr(options, f"{prefix}key") or getattr(options, f"{prefix}cert"))
