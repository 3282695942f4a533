"""The compiled build: it does what the sources do, and operators can tell that it is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import COMPILED
from support.outcomes import inputs, outcome

import chp
from chp.app import ConfigurableProxy

ROOT = Path(__file__).parent.parent.parent


def test_the_version_says_which_build_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    ConfigurableProxy().print_version()
    assert capsys.readouterr().out == chp.__version__ + (" (compiled)" if COMPILED else "") + "\n"


def test_it_makes_of_any_bytes_what_the_sources_do() -> None:
    """The sources are in another process; on the plain build, these are the same."""
    count = 3000
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/outcomes.py"), str(count)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
        text=True,
    )
    for data, expected in zip(inputs(count), ended.stdout.splitlines(), strict=True):
        assert outcome(data) == expected, data
