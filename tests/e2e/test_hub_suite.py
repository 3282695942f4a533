"""JupyterHub's own tests of proxies, from the installed package, of its last two major versions."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub import HUB_5, processes_that_know_of

TESTS = ("jupyterhub.tests.test_proxy", "jupyterhub.tests.test_internal_ssl_connections")
# Of JupyterHub's pyproject.toml, which is not installed.
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = module
asyncio_default_test_loop_scope = module
"""
SUPPORT = Path(__file__).parent.parent


@pytest.mark.parametrize("proxy", ["class", "command"])
@pytest.mark.parametrize(
    ("python", "tests"),
    [(sys.executable, (*TESTS, "jupyterhub.tests.test_unix_socket")), (HUB_5, TESTS)],
    ids=["6", "5"],
)
def test_jupyterhubs_tests_pass(tmp_path: Path, python: str, tests: tuple[str, ...], proxy: str) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    plugins = ["-p", "no:tornasync", "-p", "no:cacheprovider", "-p", "support.hub_ports"]
    if proxy == "class":
        plugins += ["-p", "support.hub_class"]
        tests = tuple(test for test in tests if "unix_socket" not in test)  # looks at the command
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGPROXY_")}
    result = subprocess.run(
        [python, "-m", "pytest", "-c", "pytest.ini", "-q", *plugins, "--pyargs", *tests],
        cwd=tmp_path,
        env={
            **inherited,
            "HOME": str(tmp_path),
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{SUPPORT}{os.pathsep}{tmp_path}",  # users' servers inherit it
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    for pid in processes_that_know_of(tmp_path):
        os.kill(pid, signal.SIGKILL)  # JupyterHub's tests leave a server running
    output = result.stdout[-20_000:] + result.stderr[-2_000:]
    assert result.returncode == 0, output
    counted = re.search(r"^(\d+) passed", result.stdout, re.MULTILINE)
    assert counted is not None, output
    assert int(counted[1]) >= 34, output
