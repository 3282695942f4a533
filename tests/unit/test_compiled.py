"""The compiled build: operators can tell that it is one. Other tests run on it unchanged."""

from __future__ import annotations

import pytest
from support.commands import COMPILED

import chp
from chp.app import ConfigurableProxy


def test_the_version_says_which_build_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    ConfigurableProxy().print_version()
    assert capsys.readouterr().out == chp.__version__ + (" (compiled)" if COMPILED else "") + "\n"
