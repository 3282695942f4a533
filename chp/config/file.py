"""The configuration file: Python (``c.ConfigurableProxy.port = 8000``), or JSON by its name."""

from __future__ import annotations

import difflib
import os
import textwrap
import traceback
from collections.abc import Iterator, Sequence

from traitlets import HasTraits
from traitlets.config import Config, Configurable
from traitlets.config.loader import JSONFileConfigLoader, PyFileConfigLoader

from chp.errors import ConfigError

DEFAULT_NAME = "chp_config.py"


def load(path: str) -> Config:
    """Run a configuration file. Raises :class:`ConfigError`, with the line where it fails."""
    full_path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(full_path):
        raise ConfigError(f"no configuration file {path}")
    loader = JSONFileConfigLoader if path.endswith(".json") else PyFileConfigLoader
    try:
        return loader(full_path).load_config()
    # The file is a program: anything can come out of it, sys.exit() and KeyboardInterrupt included.
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        # The last of the files that were run: this one, or one that it loads.
        places = [(frame.filename, frame.lineno) for frame in frames if frame.name == "<module>"]
        if isinstance(error, SyntaxError):
            places.append((error.filename or full_path, error.lineno))
        where = path
        if places:
            file, line = places[-1]
            where = f"{path if file == full_path else file}, line {line}"
        what = error.msg if isinstance(error, SyntaxError) else error
        kind = type(error).__name__
        raise ConfigError(f"configuration file {where}: {kind}{f': {what}' if str(what) else ''}") from error


def check_names(config: Config, configurable: type[Configurable], path: str) -> None:
    """Raise :class:`ConfigError` if the file sets an option that does not exist.

    An error and not a warning: behind a misspelled ``ssl_reject_unauthorized``
    the proxy would be open without anybody noticing.
    """
    ours = configurable.__name__
    for section in config:
        # It may be a store's own section; but a slip of the pen is close to ours.
        if section != ours and difflib.get_close_matches(section, [ours], 1, 0.8):
            raise ConfigError(f"configuration file {path}: unknown class {section} (did you mean {ours}?)")
    for cls in configurable.mro():
        if not issubclass(cls, Configurable) or cls.__name__ not in config:
            continue
        known = configurable.class_trait_names(config=True)
        for name in config[cls.__name__]:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise ConfigError(f"configuration file {path}: unknown option {cls.__name__}.{name}{hint}")


def default_lines(groups: Sequence[type[HasTraits]], class_name: str) -> Iterator[str]:
    """Yield the lines of a configuration file with every option, its help and its default.

    traitlets would add its own options with its own texts, which change from release to release.
    """
    yield "# Configuration file for chp. Take the comment sign away from what you change."
    yield ""
    yield "c = get_config()  # noqa: F821"
    for group in groups:
        yield from ("", f"# -- {group.__doc__} --")
        traits = group.class_own_traits(config=True)
        for name in vars(group):  # in the order of the source, which traitlets does not keep
            if name in traits:
                text = textwrap.dedent(traits[name].help).strip()
                yield ""
                yield from (f"# {line}".rstrip() for line in text.splitlines())
                yield f"# c.{class_name}.{name} = {traits[name].default_value_repr()}"
