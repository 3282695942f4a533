from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chp import processes
from chp.processes import ending, is_proxy


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/usr/bin/python3", "-m", "chp", "--port", "8000"], True),
        (["python3.11", "-X", "dev", "-m", "chp"], True),
        (["/venv/bin/python", "/venv/bin/configurable-http-proxy", "--port", "80"], True),
        (["node", "--max-old-space-size=99", "/usr/bin/configurable-http-proxy"], True),
        (["configurable-http-proxy", "--port", "80"], True),
        (["/opt/chp"], True),
        (["python3", "-m", "http.server", "chp"], False),
        (["python3", "chp.py"], False),
        (["vim", "chp"], False),
        (["sleep", "60"], False),
        ([""], False),
        ([], False),
    ],
)
def test_a_proxy_by_its_command_line(
    command: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_state_and_command", lambda pid: ("S", command))
    assert is_proxy(1) is expected


@pytest.mark.parametrize("proc", [True, False], ids=["proc", "ps"])
def test_real_processes(tmp_path: Path, proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not proc:
        # As on systems without /proc.
        monkeypatch.setattr(processes, "_PROC", tmp_path / "no-proc")
    (tmp_path / "chp").write_text("print('here', flush=True); input()")
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "chp")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    assert is_proxy(process.pid)
    assert not is_proxy(os.getpid())
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert not is_proxy(process.pid)
    process.communicate()
    assert not is_proxy(process.pid)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with exit status 0"),
        (1, "ended with exit status 1"),
        (-9, "was killed by SIGKILL"),
        (-200, "was killed by signal 200"),
    ],
)
def test_endings(status: int, text: str) -> None:
    assert ending(status) == text
