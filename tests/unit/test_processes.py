from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chp import processes
from chp.processes import Process, ending, find_process


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
    ],
)
def test_a_proxy_by_its_command_line(command: list[str], expected: bool) -> None:
    assert Process(command, 0.0).is_proxy is expected


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
    found = find_process(process.pid)
    assert found is not None
    assert found.is_proxy
    assert -1 <= found.age < 30
    own = find_process(os.getpid())
    assert own is not None
    assert not own.is_proxy
    assert own.age > found.age or proc is False  # whole seconds only
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert find_process(process.pid) is None
    process.communicate()
    assert find_process(process.pid) is None


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [("00:05", 5), ("02:03", 123), ("01:00:01", 3601), ("2-03:04:05", 2 * 86_400 + 3 * 3600 + 245)],
)
def test_ages_as_ps_shows_them(
    shown: str, seconds: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "_PROC", tmp_path / "no-proc")
    answer = subprocess.CompletedProcess([], 0, stdout=f"Ss {shown} /opt/chp --port 1\n")
    monkeypatch.setattr(processes.subprocess, "run", lambda *args, **kwargs: answer)
    found = find_process(1)
    assert found is not None
    assert (found.command, found.age) == (["/opt/chp", "--port", "1"], seconds)


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
