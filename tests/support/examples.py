"""Examples of the documentation, and what they need to run on the machine of the tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = str(Path(sys.executable).parent)


def examples(document: str, language: str) -> list[str]:
    """Return the blocks of a document that are marked as this language."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def example(word: str, document: str = "README.md", language: str = "python") -> str:
    """Return the one example in which a word stands."""
    (found,) = [block for block in examples(document, language) if word in block]
    return found


def here(text: str, directory: Path, **replacements: object) -> str:
    """Let absolute paths of an example lead below a directory, and its programs be those of the tests.

    ``replacements`` are further ones: ``port_8000=1234`` turns ``8000`` into ``1234``.
    """
    text = re.sub(r"/opt/[a-z/]+/bin\b", PROGRAMS, text)
    text = re.sub(r"(?<![\w/.])(/(etc|run|opt)/)", rf"{directory}\1", text)
    text = text.replace("%2Frun%2F", f"{directory}/run/".replace("/", "%2F"))
    for name, value in replacements.items():
        wanted = name.removeprefix("port_")
        assert wanted in text, f"no {wanted} in the example:\n{text}"
        text = re.sub(rf"(?<!\d){wanted}(?!\d)", str(value), text)
    return text
