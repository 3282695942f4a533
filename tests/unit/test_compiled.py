"""The compiled build: the same tests run on it, and operators can tell that it is one."""

from __future__ import annotations

import os

import pytest

import chp
from chp.app import ConfigurableProxy, is_compiled


def test_the_build_is_the_one_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """``make test`` sets the variable for the tests that are meant for the compiled build."""
    compiled = os.environ.get("CHP_COMPILE") == "1"
    assert is_compiled() is compiled
    ConfigurableProxy().print_version()
    assert capsys.readouterr().out == chp.__version__ + (" (compiled)" if compiled else "") + "\n"
