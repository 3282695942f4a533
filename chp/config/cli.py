"""The command line: CHP's options, those of traitlets applications, and their help.

traitlets' own parser knows neither empty values nor ``--no-...`` switches, and
only warns about what it does not know. Here the traits themselves are the
table of options: ``some_name`` is ``--some-name``.
"""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from traitlets import Bool, HasTraits, Integer, List, TraitError, TraitType
from traitlets.config import Configurable

from chp.errors import ConfigError, shortened

USAGE = """\
Usage: chp [options]

A configurable reverse proxy for JupyterHub. Every option can also stand in a
configuration file (chp_config.py), as c.ConfigurableProxy.some_name = value."""

_OTHER_OPTIONS = {
    "-f, --config FILE": "Read this configuration file; by default chp_config.py, if there is one here.",
    "--generate-config": "Write a configuration file with all options and their defaults.",
    "-y": "Answer yes to the question whether --generate-config may replace a file.",
    "--show-config": "Show the configuration and exit; --show-config-json does so as JSON.",
    "--debug": "The same as --log-level debug.",
    "--ConfigurableProxy.NAME=VALUE": "Set an option by its name in the configuration file.",
    "-V, --version": "Show the version and exit.",
    "-h, --help": "Show this help and exit; --help-all has more about each option.",
}


@dataclass
class CommandLine:
    """What was asked for on the command line."""

    values: dict[str, Any] = field(default_factory=dict)  # by the name of the trait
    config_file: str = ""
    generate_config: bool = False
    answer_yes: bool = False
    help: str = ""  # "", "help" or "help-all"
    version: bool = False


@dataclass(frozen=True)
class Flag:
    """One spelling of an option on the command line."""

    trait: str
    sets: Any = None  # the value, for a switch; None: the option takes one

    @property
    def takes_value(self) -> bool:
        return self.sets is None


def flags(options: type[HasTraits]) -> dict[str, Flag]:
    """Every ``--option`` that stands for a trait."""
    table: dict[str, Flag] = {}
    for name, trait in options.class_traits(config=True, flag=lambda flag: flag is not False).items():
        dashed = name.replace("_", "-")
        if isinstance(trait, Bool):
            table[f"--{dashed}"] = Flag(name, True)
            table[f"--no-{dashed}"] = Flag(name, False)
        else:
            table[f"--{dashed}"] = Flag(name)
    return table


def parse(argv: Sequence[str], options: type[HasTraits]) -> CommandLine:
    """Read a command line, without the program's name; the last of equal options wins.

    ``options`` is the configurable class, whose traits are the options.
    Raises :class:`ConfigError` for everything that is not understood.
    """
    parser = _Parser(list(argv), options)
    while parser.arguments:
        parser.read_option()
    return parser.line


class _Parser:
    def __init__(self, arguments: list[str], options: type[HasTraits]) -> None:
        self.line = CommandLine()
        self.arguments = arguments  # what is still to be read
        self._class_name = options.__name__
        self._sections = {cls.__name__ for cls in options.mro() if issubclass(cls, Configurable)}
        self._traits: dict[str, TraitType[Any, Any]] = options.class_traits(config=True)
        self._flags = flags(options)

    def read_option(self) -> None:
        argument = self.arguments.pop(0)
        if not argument.startswith("-") or argument in ("-", "--"):
            raise ConfigError(f"unexpected argument {argument!r}: there are only options")
        name, equals, text = argument.partition("=")
        value = text if equals else None
        flag = self._flags.get(name)
        if name in ("-f", "--config"):
            self.line.config_file = self._value(name, value)
            if not self.line.config_file:
                raise ConfigError(f"option {name} needs a value")
        elif flag is not None and flag.takes_value:
            _set(self.line.values, flag.trait, self._traits[flag.trait], name, self._value(name, value))
        elif "." in name:
            self._read_trait(name, value)
        elif flag is None:
            self._read_other_switch(name, value)
        elif value is not None:
            raise ConfigError(f"option {name} takes no value")
        else:
            self.line.values[flag.trait] = flag.sets

    def _value(self, name: str, value: str | None) -> str:
        if value is not None:
            return value
        # An option in the place of a value: the value was forgotten.
        if not self.arguments or self.arguments[0].startswith("--"):
            raise ConfigError(f"option {name} needs a value")
        return self.arguments.pop(0)

    def _read_trait(self, name: str, value: str | None) -> None:
        """Read ``--ConfigurableProxy.trait=value``."""
        section, _, trait = name[2:].partition(".")
        if section not in self._sections or trait not in self._traits:
            raise _unknown(name, [f"--{self._class_name}.{known}" for known in self._traits])
        _set_as_python(self.line.values, trait, self._traits[trait], name, self._value(name, value))

    def _read_other_switch(self, name: str, value: str | None) -> None:
        line = self.line
        match name:
            case "-h" | "--help":
                line.help = line.help or "help"
            case "--help-all":
                line.help = "help-all"
            case "-V" | "--version":
                line.version = True
            case "--generate-config":
                line.generate_config = True
            case "-y" | "--yes":
                line.answer_yes = True
            case "--show-config" | "--show-config-json":
                line.values[name[2:].replace("-", "_")] = True
            case "--debug":
                line.values["log_level"] = "debug"
            case _:
                raise _unknown(name, list(self._flags))
        if value is not None:
            raise ConfigError(f"option {name} takes no value")


def _set(values: dict[str, Any], name: str, trait: TraitType[Any, Any], option: str, text: str) -> None:
    if isinstance(trait, Integer):
        try:
            values[name] = int(text)
        except ValueError:
            raise ConfigError(f"option {option}: {shortened(repr(text))} is not a whole number") from None
    elif isinstance(trait, List):
        values.setdefault(name, []).append(text)
    else:
        values[name] = text  # as it is: traitlets would strip quotes and expand a ~


def _set_as_python(
    values: dict[str, Any], name: str, trait: TraitType[Any, Any], option: str, text: str
) -> None:
    """Set what ``--ConfigurableProxy.name=text`` says, which traitlets reads as Python where it can."""
    if isinstance(trait, List) and text.startswith("["):
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise ConfigError(f"option {option}: not a Python list") from None
    elif isinstance(trait, Bool) or text == "None":
        try:
            values[name] = trait.from_string(text)
        except (ValueError, TraitError):
            raise ConfigError(f"option {option}: {text!r} is not True or False") from None
    elif name == "logging_config":
        raise ConfigError(f"option {option}: only possible in a configuration file")
    else:
        _set(values, name, trait, option, text)


def _unknown(name: str, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(name, known, 1)
    return ConfigError(f"unknown option {name}" + (f" (did you mean {close[0]}?)" if close else ""))


def help_lines(groups: Sequence[type[HasTraits]]) -> Iterator[str]:
    """Yield the lines of ``--help``: all options, group by group."""
    for group in groups:
        yield from ("", f"{group.__doc__}:")
        traits = group.class_own_traits(config=True, flag=lambda flag: flag is not False)
        for name in vars(group):  # in the order of the source, which traitlets does not keep
            if name in traits:
                yield from _entry(_spelling(name, traits[name]), _summary(traits[name]))
    yield from ("", "Configuration and help:")
    for spelling, text in _OTHER_OPTIONS.items():
        yield from _entry(spelling, text)


def _entry(spelling: str, text: str) -> Iterator[str]:
    yield f"  {spelling}"
    yield from textwrap.wrap(text, 78, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _spelling(name: str, trait: TraitType[Any, Any]) -> str:
    dashed = name.replace("_", "-")
    if isinstance(trait, Bool):
        return f"--no-{dashed}" if trait.default_value else f"--{dashed}"
    metavar = "N" if isinstance(trait, Integer) else trait.metadata["metavar"]
    return f"--{dashed} {metavar}"


def _summary(trait: TraitType[Any, Any]) -> str:
    text = " ".join(textwrap.dedent(trait.help).strip().partition("\n\n")[0].replace("``", "").split())
    if isinstance(trait, Bool):
        return f"Switch this off: {text}" if trait.default_value else text
    default = trait.default_value_repr().strip("'")
    # The default of the API's port depends on another option: it is in the text.
    if default in ("", "None", "[]") or trait.name == "api_port":
        return text
    return f"{text} (default: {default})"
