"""Write docs/options.md and the tables of options in README.md and docs/jupyterhub.md, from the help texts.

python docs/make_options.py           write them
python docs/make_options.py --check   exit status 1 if they are not up to date
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from traitlets import HasTraits, TraitType

from chp.config.cli import help_lines
from chp.config.options import GROUPS
from chp.jupyterhub import CHPProxy

ROOT = Path(__file__).parent.parent
OPTIONS = ROOT / "docs" / "options.md"
README = ROOT / "README.md"
HUB = ROOT / "docs" / "jupyterhub.md"
BEGIN, END = "<!-- {}: written by docs/make_options.py -->\n", "<!-- end of {} -->"

INTRODUCTION = """\
# Options

<!-- Written by docs/make_options.py: change the help in chp/config/options. -->

An option can stand on the command line (`--some-name value` or `--some-name=value`; the last of several
wins) or in a configuration file, as `c.ConfigurableProxy.some_name = value`. The command line wins over the
file. `chp_config.py` in the working directory is read if there is one, `--config FILE` names another, and
`chp --generate-config` writes one with all options and their defaults. An option that does not exist is an
error in both places.

What is *live* changes when the file is read again ([Reloading](operations.md#reloading)).
"""


class Option(NamedTuple):
    name: str
    spelling: str  # as in --help; empty: for configuration files only
    trait: TraitType[Any, Any]

    @property
    def title(self) -> str:
        return self.spelling or f"c.ConfigurableProxy.{self.name}"

    @property
    def help(self) -> str:
        return textwrap.dedent(self.trait.help).strip()

    @property
    def text(self) -> str:
        """All of the help, with its default unless that is obvious, on one line."""
        return self._with_default(" ".join(self.help.split()).replace("``", "`"))

    @property
    def summary(self) -> str:
        text = " ".join(self.help.partition("\n\n")[0].split()).replace("``", "`")
        if self.spelling.startswith("--no-"):  # as --help does
            return f"Switch this off: {text}"
        return self._with_default(text)

    def _with_default(self, text: str) -> str:
        default = self.trait.default_value_repr().strip("'")
        # The text has the default of the API's port; nothing and False need no words.
        plain = self.name == "api_port" or default in ("", "None", "False", "[]")
        return text if plain else f"{text} (default: {default})"


def options(group: type[HasTraits]) -> Iterator[Option]:
    traits = group.class_own_traits(config=True)
    spelled = iter([line.strip() for line in help_lines([group]) if line.startswith("  --")])
    for name in vars(group):  # in the order of the source, as in --help
        if name in traits:
            on_command_line = traits[name].metadata.get("flag") is not False
            yield Option(name, next(spelled) if on_command_line else "", traits[name])


def reference() -> str:
    """Return docs/options.md."""
    parts = [INTRODUCTION]
    for group in GROUPS:
        parts.append(f"## {group.__doc__}\n")
        for option in options(group):
            parts.append(f"### `{option.title}`\n")
            off = option.spelling.startswith("--no-")
            parts.append(("Switch this off: " if off else "") + option.help.replace("``", "`") + "\n")
            live = ", live" if option.trait.metadata.get("live") else ""
            parts.append(f"`{option.name}`, default: {default(option)}{live}\n")
    return "\n".join(parts)


def default(option: Option) -> str:
    if option.name == "api_port":
        return "`port` + 1"
    text = option.trait.default_value_repr()
    return "empty" if text == "''" else f"`{text}`"


def table() -> str:
    """Return the table for README.md."""
    lines = []
    for group in GROUPS:
        lines += ["", f"| {group.__doc__} | |", "|---|---|"]
        for option in options(group):
            lines.append(f"| `{option.title}` | {option.summary} |")
    return "\n".join([*lines, "", ""])


def proxy_class() -> str:
    """Return the options of JupyterHub's proxy class that are its own, for docs/jupyterhub.md."""
    traits = CHPProxy.class_own_traits(config=True)
    lines = ["", "| `c.CHPProxy...` | |", "|---|---|"]
    for name in (name for name in vars(CHPProxy) if name in traits):
        option = Option(name, "", traits[name])
        lines.append(f"| `{name}` | {option.text} |")
    return "\n".join([*lines, "", ""])


def filled(path: Path, name: str, content: str) -> str:
    """Return the text of a file with the content in its place."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN.format(name))
    _, end, after = rest.partition(END.format(name))
    if not (begin and end):
        raise ValueError(f"{path.name} has no place for {name}")
    return before + begin + content + end + after


def wanted() -> dict[Path, str]:
    """Return what the files have to contain."""
    return {
        OPTIONS: reference(),
        README: filled(README, "options", table()),
        HUB: filled(HUB, "CHPProxy", proxy_class()),
    }


def main() -> None:
    stale = [path for path, text in wanted().items() if not path.exists() or path.read_text("utf-8") != text]
    if sys.argv[1:] == ["--check"]:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"not up to date: {names} (run make generate)" if stale else 0)
    for path in stale:
        path.write_text(wanted()[path], encoding="utf-8")


if __name__ == "__main__":
    main()
